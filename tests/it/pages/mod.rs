//! The page at `/` in a real browser.

mod creator;
mod page;
mod streams;
