use super::super::devices::{ALL, MKNOD, READ, WRITE};
use super::*;

/// What the kernel would answer, by interpreting the program.
pub fn run(program: &[Insn], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    for _ in 0..10_000 {
        let i = program[at];
        let (d, s) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let immediate = i64::from(i.immediate) as u64;
        at += 1;
        match i.code {
            LOAD_WORD => registers[d] = u64::from(context[i.offset as usize / 4]),
            MOVE_REGISTER => registers[d] = registers[s],
            MOVE => registers[d] = immediate,
            AND => registers[d] &= immediate,
            SHIFT_RIGHT => registers[d] >>= immediate,
            JUMP_IF_EQUAL if registers[d] == immediate => at += i.offset as usize,
            JUMP_IF_NOT if registers[d] != immediate => at += i.offset as usize,
            JUMP_IF_EQUAL | JUMP_IF_NOT => {}
            EXIT => return registers[0] == 1,
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("the program does not end");
}

/// The rule of the module's first lines, said the plain way.
fn by_hand(rules: &Rules, kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        let meets = |rule: &&Rule| {
            rule.kind == kind
                && rule.access & bit != 0
                && rule.major.is_none_or(|m| m == major)
                && rule.minor.is_none_or(|m| m == minor)
        };
        rules.rules.iter().rev().find(meets).map_or(rules.default_allow, |rule| rule.allow)
    })
}

fn kind_number(kind: Kind) -> u32 {
    if kind == Kind::Block { 1 } else { 2 }
}

#[test]
fn the_program_says_what_the_rules_say() {
    let rule = |allow, kind, major, minor, access| Rule { allow, kind, major, minor, access };
    let rules = Rules {
        default_allow: false,
        rules: vec![
            rule(true, Kind::Char, None, None, MKNOD),
            rule(true, Kind::Char, Some(1), Some(3), ALL),
            rule(true, Kind::Char, Some(5), None, READ | WRITE),
            rule(false, Kind::Char, Some(5), Some(1), WRITE),
        ],
    };
    let program = compile(&rules);
    let ask = |access: u8, major, minor| run(&program, 2, access.into(), major, minor);
    assert!(ask(ALL, 1, 3) && ask(READ, 5, 7) && ask(MKNOD | READ, 5, 0) && ask(MKNOD, 9, 9) && ask(READ, 5, 1));
    assert!(!ask(READ, 8, 0) && !ask(WRITE, 5, 1) && !ask(READ | WRITE, 5, 1) && !ask(ALL, 1, 5));
    assert!(!run(&program, 1, READ.into(), 1, 3), "a block device with the numbers of an allowed character device");
}

proptest::proptest! {
    #[test]
    fn programs_agree_with_the_plain_reading(
        default_allow: bool,
        raw in proptest::collection::vec((proptest::bool::ANY, proptest::bool::ANY, 0u32..4, 0u32..4, 1u8..8), 0..12),
        asked in 1u8..8,
        major in 0u32..3,
        minor in 0u32..3,
        block: bool,
    ) {
        let kind = |block| if block { Kind::Block } else { Kind::Char };
        let number = |n: u32| n.checked_sub(1);
        let rules = Rules {
            default_allow,
            rules: raw
                .iter()
                .map(|&(allow, block, a, b, access)| Rule {
                    allow, kind: kind(block), major: number(a), minor: number(b), access,
                })
                .collect(),
        };
        let got = run(&compile(&rules), kind_number(kind(block)), asked.into(), major, minor);
        proptest::prop_assert_eq!(got, by_hand(&rules, kind(block), asked, major, minor));
    }
}
