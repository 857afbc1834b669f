//! Enums that are written as words in flags, annotations, metrics, Events and the ledger.

use super::text::excerpt;

/// A word that is not one of the allowed ones.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{value:?} is not allowed; use {allowed}")]
pub struct UnknownWord {
    value: String,
    allowed: &'static str,
}

impl UnknownWord {
    /// `text` was found where one of the `allowed` words is needed.
    pub fn new(text: &str, allowed: &'static str) -> Self {
        Self {
            value: excerpt(text),
            allowed,
        }
    }
}

/// Defines an enum in which each variant is written as one word, spelled once.
///
/// ```
/// domain::words! {
///     /// How loud.
///     pub enum Volume {
///         /// A whisper.
///         Low = "low",
///         /// A shout.
///         High = "high",
///     }
/// }
/// assert_eq!(Volume::ALLOWED, "low or high");
/// assert_eq!("high".parse(), Ok(Volume::High));
/// assert_eq!(Volume::ALL.map(Volume::as_str), ["low", "high"]);
/// ```
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        $vis enum $name {
            $($(#[$word_doc])* $variant,)+
        }

        #[allow(dead_code, reason = "not every enum needs each of these")]
        impl $name {
            /// All variants, in order.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// Their words, for a message: `a, b or c`.
            pub const ALLOWED: &str = $crate::words!(@list $($word),+);

            /// The word for this variant.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The variant for this word.
            pub fn named(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::named(text).ok_or_else(|| $crate::words::UnknownWord::new(text, Self::ALLOWED))
            }
        }
    };
    (@list $last:literal) => { $last };
    (@list $one:literal, $last:literal) => { concat!($one, " or ", $last) };
    (@list $first:literal, $($rest:literal),+) => { concat!($first, ", ", $crate::words!(@list $($rest),+)) };
}
