use proptest::prelude::*;

use super::*;

fn records(data: &[u8], rules: Rules) -> (Vec<(Tag, Vec<u8>)>, usize) {
    let mut records = Vec::new();
    let done = split(data, rules, |tag, line| records.push((tag, line.to_vec())));
    (records, done)
}

fn full(line: &[u8]) -> (Tag, Vec<u8>) {
    (Tag::Full, line.to_vec())
}

fn partial(line: &[u8]) -> (Tag, Vec<u8>) {
    (Tag::Partial, line.to_vec())
}

#[test]
fn lines_are_records() {
    assert_eq!(records(b"a\n\nbc\nrest", Rules::default()), (vec![full(b"a"), full(b""), full(b"bc")], 6));
    assert_eq!(records(b"", Rules::default()), (vec![], 0));
    assert_eq!(records(b"", Rules { end: true, ..Rules::default() }), (vec![], 0));
}

#[test]
fn the_last_line_without_an_end_is_a_part() {
    let rules = Rules { end: true, ..Rules::default() };
    assert_eq!(records(b"a\nrest", rules), (vec![full(b"a"), partial(b"rest")], 6));
}

#[test]
fn a_long_line_comes_in_parts() {
    let mut data = vec![b'x'; LINE_MAX * 2 + 5];
    data.push(b'\n');
    let max = vec![b'x'; LINE_MAX];
    assert_eq!(records(&data, Rules::default()).0, [partial(&max), partial(&max), full(b"xxxxx")]);
    data.pop();
    let (got, done) = records(&data, Rules::default());
    assert_eq!(got, [partial(&max), partial(&max)]);
    assert_eq!(done, LINE_MAX * 2);
}

#[test]
fn a_line_of_just_the_limit_is_whole() {
    let mut data = vec![b'x'; LINE_MAX];
    assert_eq!(records(&data, Rules::default()), (vec![], 0));
    data.push(b'\n');
    assert_eq!(records(&data, Rules { seen: LINE_MAX, ..Rules::default() }).0, [full(&data[..LINE_MAX])]);
    data.insert(0, b'x');
    assert_eq!(records(&data, Rules::default()).0, [partial(&data[..LINE_MAX]), full(b"x")]);
}

#[test]
fn a_terminals_carriage_return_goes() {
    let rules = Rules { terminal: true, ..Rules::default() };
    assert_eq!(records(b"a\r\nb\n\r\nc\rd\r\n", rules).0, [full(b"a"), full(b"b"), full(b""), full(b"c\rd")]);
    assert_eq!(records(b"a\r\n", Rules::default()).0, [full(b"a\r")]);
}

proptest! {
    #[test]
    fn the_line_feed_is_found_where_it_is(bytes in proptest::collection::vec(prop_oneof![8u8..13, any::<u8>()], 0..80)) {
        prop_assert_eq!(newline(&bytes), bytes.iter().position(|&b| b == b'\n'));
    }

    /// However the bytes arrive, the records are the same, and put together they are the bytes.
    #[test]
    fn pieces_do_not_matter(
        lines in proptest::collection::vec(prop_oneof![0usize..50, LINE_MAX - 2..LINE_MAX + 3, 0usize..50_000], 0..6),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ended: bool,
    ) {
        let mut data = Vec::new();
        for (i, length) in lines.iter().enumerate() {
            data.extend(std::iter::repeat_n(b'a' + i as u8, *length));
            data.push(b'\n');
        }
        if !ended {
            data.pop();
        }
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        ends.push(data.len());
        ends.sort_unstable();
        let (mut got, mut kept, mut at) = (Vec::new(), Vec::new(), 0);
        for (i, end) in ends.iter().enumerate() {
            let seen = kept.len();
            kept.extend_from_slice(&data[at..*end]);
            at = *end;
            let rules = Rules { seen, end: i + 1 == ends.len(), terminal: false };
            let (records, done) = records(&kept, rules);
            got.extend(records);
            kept.drain(..done);
            prop_assert!(kept.len() <= LINE_MAX);
        }
        let mut back = Vec::new();
        for (i, (tag, line)) in got.iter().enumerate() {
            prop_assert!(line.len() <= LINE_MAX);
            let last = i + 1 == got.len();
            prop_assert!(*tag == Tag::Full || line.len() == LINE_MAX || last);
            back.extend_from_slice(line);
            if *tag == Tag::Full {
                back.push(b'\n');
            }
        }
        prop_assert_eq!(back, data);
    }
}
