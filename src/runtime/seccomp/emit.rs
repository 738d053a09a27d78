//! Rules to classic BPF.

use oci_spec::runtime::LinuxSeccompOperator;

use super::rules::{Architecture, Condition, Decision, KILL_PROCESS, Rule, Rules};
use super::{Result, SeccompError};

/// `BPF_MAXINSNS`.
const MOST: usize = 4096;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u16,
    pub yes: u8,
    pub no: u8,
    pub value: u32,
}

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, yes: 0, no: 0, value }
}

/// The program as the kernel takes it.
pub(super) fn program(rules: &Rules) -> Result<Vec<u8>> {
    let mut code = vec![plain(LOAD, ARCHITECTURE)];
    for architecture in &rules.architectures {
        let block = block(architecture)?;
        // Not this one: over the block, which is longer than a short jump.
        code.push(Instruction { code: IF_EQUAL, yes: 1, no: 0, value: architecture.audit });
        code.push(plain(JUMP, block.len() as u32));
        code.extend(block);
    }
    code.push(plain(RETURN, KILL_PROCESS));
    if code.len() > MOST {
        return Err(SeccompError::TooLong(code.len()));
    }
    let bytes = |i: Instruction| {
        let [a, b] = i.code.to_ne_bytes();
        let [c, d, e, f] = i.value.to_ne_bytes();
        [a, b, i.yes, i.no, c, d, e, f]
    };
    Ok(code.into_iter().flat_map(bytes).collect())
}

fn block(architecture: &Architecture) -> Result<Vec<Instruction>> {
    let mut tree = Tree::default();
    tree.search(&architecture.ranges);
    tree.backwards.push(plain(LOAD, NUMBER));
    tree.backwards.reverse();
    if tree.backwards.len() > MOST {
        return Err(SeccompError::TooLong(tree.backwards.len()));
    }
    Ok(tree.backwards)
}

/// A binary search over the ranges, built from its end, since jumps lead forward only: so what is there already can be
/// jumped to again, and the few things that happen to system calls are there once, not once a range.
#[derive(Default)]
struct Tree<'a> {
    backwards: Vec<Instruction>,
    /// Where each decision begins that was made last.
    made: Vec<(&'a Decision, usize)>,
}

impl<'a> Tree<'a> {
    /// Returns the place of the first instruction, counted from the end.
    fn search(&mut self, ranges: &'a [(u32, Decision)]) -> usize {
        if let [(_, decision)] = ranges {
            return self.decision(decision);
        }
        let (below, above) = ranges.split_at(ranges.len() / 2);
        let yes = self.search(above);
        let no = self.search(below);
        // A jump that has to be lengthened moves the comparison one further from the other target.
        let yes = self.within_reach(yes, 2);
        let no = self.within_reach(no, 1);
        let place = self.backwards.len();
        let over = |target: usize| (place - target - 1) as u8;
        self.backwards.push(Instruction { code: IF_AT_LEAST, yes: over(yes), no: over(no), value: above[0].0 });
        place
    }

    /// `target`, or a long jump to it, so that `more` instructions from here a short jump reaches it.
    fn within_reach(&mut self, target: usize, more: usize) -> usize {
        let place = self.backwards.len();
        if place + more - target - 1 <= usize::from(u8::MAX) {
            return target;
        }
        self.backwards.push(plain(JUMP, (place - target - 1) as u32));
        place
    }

    fn decision(&mut self, decision: &'a Decision) -> usize {
        /// Nearer than a short jump reaches, as some instructions may still come in between.
        const NEAR: usize = 240;
        let here = self.backwards.len();
        let mut made = self.made.iter_mut().find(|(known, _)| *known == decision);
        if let Some(&mut (_, place)) = made.as_deref_mut().filter(|(_, place)| here - *place < NEAR) {
            return place;
        }
        let mut code = Vec::new();
        decide(decision, &mut code);
        let place = here + code.len() - 1;
        match made {
            Some((_, known)) => *known = place,
            None => self.made.push((decision, place)),
        }
        self.backwards.extend(code.into_iter().rev());
        place
    }
}

fn decide(decision: &Decision, code: &mut Vec<Instruction>) {
    for rule in &decision.rules {
        code.extend(try_rule(rule));
    }
    code.push(plain(RETURN, decision.otherwise));
}

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Holds,
    /// It does not, so the rule does not match.
    Fails,
}

/// The conditions one after the other, and the action; whatever fails leads behind it. At most 6 conditions of 6
/// instructions: always a short jump.
fn try_rule(rule: &Rule) -> Vec<Instruction> {
    let conditions: Vec<Vec<(u16, u32, To, To)>> = rule.conditions.iter().map(compare).collect();
    let length: usize = conditions.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(length + 1);
    for condition in conditions {
        let holds = code.len() + condition.len();
        for (operation, value, yes, no) in condition {
            let at = code.len() + 1;
            let offset = |to| match to {
                To::Next => 0,
                To::Holds => (holds - at) as u8,
                To::Fails => (length + 1 - at) as u8,
            };
            code.push(Instruction { code: operation, yes: offset(yes), no: offset(no), value });
        }
    }
    code.push(plain(RETURN, rule.action));
    code
}

/// Arguments have 64 bits and BPF has 32: the upper half decides, and where it is equal the lower one.
fn compare(condition: &Condition) -> Vec<(u16, u32, To, To)> {
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * condition.index;
    let high = low + 4;
    let load = |offset| (LOAD, offset, Next, Next);
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (h, l) = halves(condition.value);
    match condition.operator {
        LinuxSeccompOperator::ScmpCmpEq => {
            vec![load(high), (IF_EQUAL, h, Next, Fails), load(low), (IF_EQUAL, l, Holds, Fails)]
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            vec![load(high), (IF_EQUAL, h, Next, Holds), load(low), (IF_EQUAL, l, Fails, Holds)]
        }
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let (sh, sl) = halves(condition.second);
            vec![
                load(high),
                (AND, h, Next, Next),
                (IF_EQUAL, sh, Next, Fails),
                load(low),
                (AND, l, Next, Next),
                (IF_EQUAL, sl, Holds, Fails),
            ]
        }
        operator => {
            let (greater, not_equal, last) = match operator {
                LinuxSeccompOperator::ScmpCmpGt => (Holds, Fails, (IF_GREATER, l, Holds, Fails)),
                LinuxSeccompOperator::ScmpCmpGe => (Holds, Fails, (IF_AT_LEAST, l, Holds, Fails)),
                LinuxSeccompOperator::ScmpCmpLe => (Fails, Holds, (IF_GREATER, l, Fails, Holds)),
                _ => (Fails, Holds, (IF_AT_LEAST, l, Fails, Holds)),
            };
            vec![load(high), (IF_GREATER, h, greater, Next), (IF_EQUAL, h, Next, not_equal), load(low), last]
        }
    }
}
