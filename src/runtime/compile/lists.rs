//! Lists of CPUs and of memory nodes: "0-3,7".

use super::{Result, invalid};

/// The list as bits: bit n of word m is number 64 m + n. An empty text is an empty list; numbers are below `most`.
pub(super) fn bits(field: &str, text: &str, most: u32) -> Result<Vec<u64>> {
    let mut words = Vec::new();
    if text.is_empty() {
        return Ok(words);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return invalid(field, format!("{part:?} in {text:?} is neither a number nor a range of two"));
        };
        if first > last {
            return invalid(field, format!("the range {part:?} in {text:?} runs backwards"));
        }
        if last >= most {
            return invalid(field, format!("{last} in {text:?} is more than {}", most - 1));
        }
        for n in first..=last {
            let word = (n / 64) as usize;
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1u64 << (n % 64);
        }
    }
    Ok(words)
}

/// Digits alone: no sign, no space.
fn number(text: &str) -> Option<u32> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_bits() {
        let of = |text| bits("f", text, 1024).unwrap();
        assert_eq!(of(""), Vec::<u64>::new());
        assert_eq!(of("0"), [1]);
        assert_eq!(of("0-3,7"), [0x8f]);
        assert_eq!(of("63-64"), [1 << 63, 1]);
        assert_eq!(of("130"), [0, 0, 4]);
        assert_eq!(of("7,7-7"), [0x80]);
        assert_eq!(of("1, 2"), [6]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [",", "1,", "-1", "1-", "3-1", "a", "1-2-3", "+1", "1024", "0-4294967296", "0x1", "1;2", "-"] {
            let error = bits("field", text, 1024).unwrap_err().to_string();
            assert!(error.starts_with("field of the OCI specification: "), "{error}");
        }
    }
}
