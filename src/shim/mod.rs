//! The small process that stays with each pod, its protocol, and the client that the node uses.
