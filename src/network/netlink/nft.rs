//! nf_tables: transactions of tables, chains, sets, elements and rules.
//!
//! Everything of one [`Transaction`] takes effect at once or not at all. Numbers are in network byte order, and what a
//! rule compares is in the byte order of the packet, or of the machine for what the kernel knows of a packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::netlink::NETFILTER;

use super::{Batch, NetlinkError, Socket, attributes};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_INET: u8 = 1;
/// Multicast group of nf_tables changes, as a bit of the bind mask.
const GROUP_NFTABLES: u32 = 1 << (7 - 1);
/// A recovery adds every port of the node in one message chain: more than a socket takes by default.
const SEND_BUFFER: usize = 8 << 20;
/// Elements of one message: an attribute holds at most 64 KiB.
const ELEMENTS: usize = 400;

const NEW_TABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
const GET_TABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
const DELETE_TABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
const NEW_CHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
const NEW_RULE: u16 = libc::NFT_MSG_NEWRULE as u16;
const NEW_SET: u16 = libc::NFT_MSG_NEWSET as u16;
const NEW_ELEMENTS: u16 = libc::NFT_MSG_NEWSETELEM as u16;
const DELETE_ELEMENTS: u16 = libc::NFT_MSG_DELSETELEM as u16;

// Attributes, from linux/netfilter/nf_tables.h.
const LIST_ELEM: u16 = 1;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const SET_MAP: u32 = 0x8;

/// A failed transaction.
pub(in crate::network) type NftError = NetlinkError;

/// An nf_tables socket.
#[derive(Debug)]
pub(in crate::network) struct Nft(Socket);

/// Commands that take effect together, all on one table of family inet.
#[derive(Debug)]
pub(in crate::network) struct Transaction<'a> {
    table: &'a str,
    batch: Batch,
    sets: u32,
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) enum Hook {
    Prerouting = 0,
    Output = 3,
    Postrouting = 4,
}

/// A type of (a part of) a set's key or data, as `nft` displays it.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) enum DataType {
    Ipv4Address = 7,
    Ipv6Address = 8,
    Protocol = 12,
    Port = 13,
}

/// A register of four bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) struct Register(pub u32);

/// Builds the expressions of one rule. Each that does not match ends the rule.
#[derive(Debug)]
pub(in crate::network) struct Rule<'a>(&'a mut Batch);

impl Nft {
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::open(Some(NETFILTER), 0)?;
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).map_err(io::Error::from)?;
        Ok(Self(socket))
    }

    /// A socket that is told of every change of any table; see [`Nft::table_deleted`].
    pub fn watch() -> Result<Self, NftError> {
        Ok(Self(Socket::open(Some(NETFILTER), GROUP_NFTABLES)?))
    }

    /// Reads the waiting notifications: whether a table of this name was deleted, or notifications were lost.
    pub fn table_deleted(&mut self, table: &str) -> Result<bool, NftError> {
        let mut deleted = false;
        let lost = self.0.drain(|header, payload| {
            let ours = payload.get(4..).and_then(|rest| attributes(rest).string(TABLE_NAME)) == Some(table);
            deleted |= ours && header.kind == SUBSYSTEM << 8 | DELETE_TABLE;
        })?;
        Ok(deleted || lost)
    }

    pub fn table_exists(&mut self, table: &str) -> Result<bool, NftError> {
        let mut batch = Batch::new();
        command(&mut batch, GET_TABLE, 0).string(TABLE_NAME, table);
        batch.acknowledge();
        match self.0.transact("looking up the nftables table", &mut batch, |_, _| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn commit(&mut self, transaction: Transaction<'_>) -> Result<(), NftError> {
        let mut batch = transaction.batch;
        batch.acknowledge();
        batch.message(BATCH_END, 0).raw(&BATCH_HEADER);
        self.0.transact("nftables", &mut batch, |_, _| {})
    }
}

impl AsFd for Nft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct nfgenmsg` of a batch's begin and end: no family, version 0, the subsystem in network byte order.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, SUBSYSTEM as u8];

fn command(batch: &mut Batch, kind: u16, flags: i32) -> &mut Batch {
    batch.message(SUBSYSTEM << 8 | kind, flags as u16).raw(&[FAMILY_INET, 0, 0, 0])
}

impl<'a> Transaction<'a> {
    pub fn new(table: &'a str) -> Self {
        let mut batch = Batch::new();
        batch.message(BATCH_BEGIN, 0).raw(&BATCH_HEADER);
        Self { table, batch, sets: 0 }
    }

    /// Adds the table; one that is there already stays as it is.
    pub fn add_table(&mut self) {
        command(&mut self.batch, NEW_TABLE, libc::NLM_F_CREATE).string(TABLE_NAME, self.table);
    }

    /// Deletes the table with all that is in it; it must be there.
    pub fn delete_table(&mut self) {
        command(&mut self.batch, DELETE_TABLE, 0).string(TABLE_NAME, self.table);
    }

    /// A chain that is entered by jumps only.
    pub fn add_chain(&mut self, name: &str) {
        command(&mut self.batch, NEW_CHAIN, libc::NLM_F_CREATE)
            .string(CHAIN_TABLE, self.table)
            .string(CHAIN_NAME, name);
    }

    /// A chain that packets enter at a hook. `kind` is `filter` or `nat`.
    pub fn add_base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        self.add_chain(name);
        self.batch.nest(CHAIN_HOOK, |batch| {
            batch.be32(HOOK_NUMBER, hook as u32).be32(HOOK_PRIORITY, priority as u32);
        });
        self.batch.string(CHAIN_TYPE, kind);
    }

    /// A set of concatenated keys; with `data` a map.
    pub fn add_set(&mut self, name: &str, key: &[DataType], data: &[DataType]) {
        self.sets += 1;
        let batch = command(&mut self.batch, NEW_SET, libc::NLM_F_CREATE);
        let flags = if data.is_empty() { 0 } else { SET_MAP };
        batch.string(SET_TABLE, self.table).string(SET_NAME, name).be32(SET_FLAGS, flags);
        let (kind, length) = concatenation(key);
        batch.be32(SET_KEY_TYPE, kind).be32(SET_KEY_LEN, length);
        if !data.is_empty() {
            let (kind, length) = concatenation(data);
            batch.be32(SET_DATA_TYPE, kind).be32(SET_DATA_LEN, length);
        }
        batch.be32(SET_ID, self.sets);
    }

    /// Adds elements, each a key and for a map its data. Those that are there already are fine.
    pub fn add_elements(&mut self, set: &str, elements: &[(Vec<u8>, Vec<u8>)]) {
        self.elements(NEW_ELEMENTS, libc::NLM_F_CREATE, set, elements);
    }

    /// Deletes elements; they must be there.
    pub fn delete_elements(&mut self, set: &str, elements: &[(Vec<u8>, Vec<u8>)]) {
        self.elements(DELETE_ELEMENTS, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: i32, set: &str, elements: &[(Vec<u8>, Vec<u8>)]) {
        for elements in elements.chunks(ELEMENTS) {
            let batch = command(&mut self.batch, kind, flags);
            batch.string(ELEMENTS_TABLE, self.table).string(ELEMENTS_SET, set);
            let list = batch.open(ELEMENTS_LIST);
            for (key, data) in elements {
                let element = batch.open(LIST_ELEM);
                value(batch, ELEMENT_KEY, key);
                if !data.is_empty() {
                    value(batch, ELEMENT_DATA, data);
                }
                batch.close(element);
            }
            batch.close(list);
        }
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, build: impl FnOnce(&mut Rule<'_>)) {
        let batch = command(&mut self.batch, NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        batch.string(RULE_TABLE, self.table).string(RULE_CHAIN, chain);
        let expressions = batch.open(RULE_EXPRESSIONS);
        build(&mut Rule(batch));
        batch.close(expressions);
    }
}

/// The type of a concatenation, six bits a part, and its length with each part padded to a register.
fn concatenation(parts: &[DataType]) -> (u32, u32) {
    parts.iter().fold((0, 0), |(kind, length), part| {
        (kind << 6 | *part as u32, length + if matches!(part, DataType::Ipv6Address) { 16 } else { 4 })
    })
}

fn value(batch: &mut Batch, kind: u16, bytes: &[u8]) {
    batch.nest(kind, |batch| {
        batch.attribute(DATA_VALUE, bytes);
    });
}

/// The first register; sixteen follow each other.
pub(in crate::network) const R0: Register = Register(8);

impl Register {
    pub fn plus(self, words: u32) -> Self {
        Self(self.0 + words)
    }
}

/// A verdict of a rule.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) enum Verdict<'a> {
    Drop,
    Return,
    Jump(&'a str),
}

/// `meta` keys.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) enum Meta {
    InputName = 6,
    OutputName = 7,
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

/// Which header a payload offset counts from.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) enum Base {
    Network = 1,
    Transport = 2,
}

impl Rule<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Batch)) -> &mut Self {
        self.0.nest(LIST_ELEM, |batch| {
            batch.string(EXPR_NAME, name);
            batch.nest(EXPR_DATA, fill);
        });
        self
    }

    pub fn meta(&mut self, key: Meta, into: Register) -> &mut Self {
        self.expression("meta", |batch| {
            batch.be32(1, into.0).be32(2, key as u32);
        })
    }

    pub fn payload(&mut self, base: Base, offset: u32, length: u32, into: Register) -> &mut Self {
        self.expression("payload", |batch| {
            batch.be32(1, into.0).be32(2, base as u32).be32(3, offset).be32(4, length);
        })
    }

    fn compare(&mut self, register: Register, equal: bool, bytes: &[u8]) -> &mut Self {
        self.expression("cmp", |batch| {
            batch.be32(1, register.0).be32(2, u32::from(!equal));
            value(batch, 3, bytes);
        })
    }

    pub fn equal(&mut self, register: Register, bytes: &[u8]) -> &mut Self {
        self.compare(register, true, bytes)
    }

    pub fn not_equal(&mut self, register: Register, bytes: &[u8]) -> &mut Self {
        self.compare(register, false, bytes)
    }

    /// Masks a register in place.
    pub fn mask(&mut self, register: Register, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |batch| {
            batch.be32(1, register.0).be32(2, register.0).be32(3, mask.len() as u32);
            value(batch, 4, mask);
            value(batch, 5, &vec![0; mask.len()]);
        })
    }

    /// Matches when the key in the registers is in the set; of a map the data is loaded.
    pub fn lookup(&mut self, set: &str, key: Register, data: Option<Register>) -> &mut Self {
        self.expression("lookup", |batch| {
            batch.string(1, set).be32(2, key.0);
            if let Some(data) = data {
                batch.be32(3, data.0);
            }
        })
    }

    /// Matches packets to an address of this machine.
    pub fn destination_is_local(&mut self, scratch: Register) -> &mut Self {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.expression("fib", |batch| {
            batch.be32(1, scratch.0).be32(2, RESULT_ADDRESS_TYPE).be32(3, BY_DESTINATION);
        });
        self.equal(scratch, &LOCAL.to_ne_bytes())
    }

    /// Matches connections whose destination was translated.
    pub fn destination_translated(&mut self, scratch: Register) -> &mut Self {
        const KEY_STATUS: u32 = 2;
        const DESTINATION_NAT: u32 = 1 << 5;
        self.expression("ct", |batch| {
            batch.be32(1, scratch.0).be32(2, KEY_STATUS);
        });
        self.mask(scratch, &DESTINATION_NAT.to_ne_bytes()).not_equal(scratch, &[0; 4])
    }

    /// Translates the destination to the address and port in registers. `family` is AF_INET or AF_INET6.
    pub fn destination_nat(&mut self, family: i32, address: Register, port: Register) -> &mut Self {
        const DESTINATION: u32 = 1;
        self.expression("nat", |batch| {
            batch.be32(1, DESTINATION).be32(2, family as u32).be32(3, address.0).be32(5, port.0);
        })
    }

    /// Translates the source to the address of the interface that the packet leaves by, its port at random: two
    /// connections that begin together would else race for one port.
    pub fn masquerade(&mut self) -> &mut Self {
        const FULLY_RANDOM: u32 = 1 << 4;
        self.expression("masq", |batch| {
            batch.be32(1, FULLY_RANDOM);
        })
    }

    pub fn verdict(&mut self, verdict: Verdict<'_>) -> &mut Self {
        const VERDICT_REGISTER: u32 = 0;
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Return => (-5_i32, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
        };
        self.expression("immediate", |batch| {
            batch.be32(1, VERDICT_REGISTER);
            batch.nest(2, |batch| {
                batch.nest(DATA_VERDICT, |batch| {
                    batch.be32(VERDICT_CODE, code as u32);
                    if let Some(chain) = chain {
                        batch.string(VERDICT_CHAIN, chain);
                    }
                });
            });
        })
    }
}
