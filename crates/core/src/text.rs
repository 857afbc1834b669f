//! Helpers for messages about text that people wrote: quoting in a readable length, suggesting the word that
//! was probably meant, and naming invisible characters.

/// The one of `known` that was probably meant by `word`, if any is similar enough: `perfix` means `prefix`.
pub fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let lower = word.to_lowercase();
    // A third of the letters may be wrong: `preserve-on-deletion` means `preserve-on-delete`.
    let near = |candidate: &&str| {
        let longest = lower.chars().count().max(candidate.len());
        let distance = strsim::damerau_levenshtein(&lower, candidate);
        (distance <= (longest / 3).max(1)).then_some(distance)
    };
    let found = known.iter().filter_map(|known| Some((near(known)?, *known)));
    found.min().map(|(_, known)| known)
}

/// Invisible characters: controls, blanks other than the space, and what Unicode calls default-ignorable
/// (`DerivedCoreProperties.txt`), with the noncharacters at the end of each plane.
pub fn hides(c: char) -> bool {
    (c.is_whitespace() && c != ' ')
        || c.is_control()
        || matches!(u32::from(c),
            0xAD | 0x34F | 0x61C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F
            | 0x2028..=0x202E | 0x2060..=0x206F | 0x2800 | 0x3164 | 0xFDD0..=0xFDEF | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0
            | 0xFFF0..=0xFFFF | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
        || u32::from(c) & 0xFFFE == 0xFFFE
}

/// The end of a message about a text that cannot be used: names the text's first invisible character by code
/// point. Empty if there is none. Line breaks and tabs are not named, because they are normal in a list.
pub fn hidden(text: &str) -> String {
    let found = text
        .chars()
        .find(|&c| hides(c) && !matches!(c, '\n' | '\r' | '\t'));
    found.map_or_else(String::new, |c| {
        format!(" (the text has the invisible character U+{:04X})", u32::from(c))
    })
}

/// The text without the byte order mark that some editors put at its beginning.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A word cut to a length that fits an Event, for quoting user input.
pub fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_that_was_meant() {
        const KNOWN: [&str; 6] = [
            "path",
            "secrets",
            "preserve-on-delete",
            "deletion-policy",
            "paused",
            "keys",
        ];
        for (word, meant) in [
            ("preserve-on-deletion", Some("preserve-on-delete")),
            ("preserve_on_delete", Some("preserve-on-delete")),
            ("Path", Some("path")),
            ("pth", Some("path")),
            ("apth", Some("path")),
            ("secret", Some("secrets")),
            ("delete-policy", Some("deletion-policy")),
            ("pause", Some("paused")),
            ("key", Some("keys")),
            ("", None),
            ("x", None),
            ("vault", None),
            ("äöü", None),
        ] {
            assert_eq!(nearest(word, &KNOWN), meant, "{word}");
        }
    }

    #[test]
    fn an_invisible_character_is_named_by_its_code_point() {
        for (text, words) in [
            ("plain text, with ä and 🔑\n\tand more\r\n", ""),
            ("a\u{200b}b", " (the text has the invisible character U+200B)"),
            (
                "a\u{a0}b\u{200b}",
                " (the text has the invisible character U+00A0)",
            ),
            ("\u{feff}", " (the text has the invisible character U+FEFF)"),
            ("\u{0}", " (the text has the invisible character U+0000)"),
            ("\u{e0041}", " (the text has the invisible character U+E0041)"),
        ] {
            assert_eq!(hidden(text), words, "{text:?}");
        }
    }
}
