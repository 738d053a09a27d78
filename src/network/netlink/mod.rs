//! What pods need of the kernel's network, over [`crate::netlink`].

mod conntrack;
mod nft;
mod route;

pub(super) use crate::netlink::{Attributes, Batch, Header, NetlinkError, Socket, attributes};
pub(super) use conntrack::Conntrack;
pub(super) use nft::{Base, DataType, Hook, Meta, Nft, R0, Register, Rule, Transaction, Verdict};
pub(super) use route::{LinkEvent, Route, Veth};
