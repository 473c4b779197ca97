//! The documents: what they link to exists, and what they show is what the program does.

mod links;
mod screenshot;
