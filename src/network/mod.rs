//! The pod network: CNI client and the built-in bridge.
