//! State derived from the log: the projection, its rebuild, and the KV mirror.

mod convergence;
mod fold;
mod kv_mirror;
mod readers;
mod rebuild;
