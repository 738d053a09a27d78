//! The program that decides on device access in a v2 cgroup.
//!
//! The kernel runs it with a context of three words: kind and access asked for, major, minor. It goes through the
//! rules from the last to the first and keeps in a register which accesses no rule has decided yet:
//!
//! ```text
//! deny rule that matches:   any undecided access named in it?  -> refuse
//! allow rule that matches:  strike its accesses off; none left? -> allow
//! no rule left:             the default
//! ```

use super::devices::{Kind, Rule, Rules};

/// One instruction, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Insn {
    pub code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

const CONTEXT: u8 = 1;
const ASKED: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;
const RESULT: u8 = 0;

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const JUMP_IF_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_NOT: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: destination | source << 4, offset, immediate }
}

/// The program for `rules`.
pub fn compile(rules: &Rules) -> Vec<Insn> {
    let mut program = vec![
        insn(LOAD_WORD, ASKED, CONTEXT, 0, 0),
        insn(MOVE_REGISTER, KIND, ASKED, 0, 0),
        insn(AND, KIND, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, ASKED, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.rules.iter().rev() {
        push_rule(&mut program, rule);
    }
    push_answer(&mut program, rules.default_allow);
    program
}

fn push_rule(program: &mut Vec<Insn>, rule: &Rule) {
    let kind = match rule.kind {
        Kind::Block => 1, // BPF_DEVCG_DEV_BLOCK
        Kind::Char => 2,  // BPF_DEVCG_DEV_CHAR
    };
    let mut tests = vec![(KIND, kind)];
    tests.extend(rule.major.map(|major| (MAJOR, major as i32)));
    tests.extend(rule.minor.map(|minor| (MINOR, minor as i32)));
    let access = i32::from(rule.access);
    let body = if rule.allow {
        vec![insn(AND, ASKED, 0, 0, !access), insn(JUMP_IF_NOT, ASKED, 0, 2, 0)]
    } else {
        vec![
            insn(MOVE_REGISTER, SCRATCH, ASKED, 0, 0),
            insn(AND, SCRATCH, 0, 0, access),
            insn(JUMP_IF_EQUAL, SCRATCH, 0, 2, 0),
        ]
    };
    let len = tests.len();
    for (at, (register, value)) in tests.into_iter().enumerate() {
        // To the instruction after this rule: the tests that follow, the body and the two of the answer.
        let beyond = len - at - 1 + body.len() + 2;
        program.push(insn(JUMP_IF_NOT, register, 0, beyond as i16, value));
    }
    program.extend(body);
    push_answer(program, rule.allow);
}

fn push_answer(program: &mut Vec<Insn>, allow: bool) {
    program.push(insn(MOVE, RESULT, 0, 0, i32::from(allow)));
    program.push(insn(EXIT, 0, 0, 0, 0));
}

#[cfg(test)]
pub(super) mod tests;
