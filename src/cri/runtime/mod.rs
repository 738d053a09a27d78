//! What stands behind the RPCs of `RuntimeService`: check and convert, ask the node, convert back.

mod containers;
mod node;
mod pods;
mod stats;
