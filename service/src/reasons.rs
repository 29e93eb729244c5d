//! Closed lists of reasons: everything that is dropped, closed or given up has one, and every one has a counter.

use std::fmt::Debug;

/// One reason of a closed list. [`reasons!`](crate::reasons!) writes it.
pub trait Reason: Copy + Debug + Eq + 'static {
    /// As many values as the list has reasons, without a heap.
    type Array<T>: AsRef<[T]>;

    /// All reasons, in the order of [`Reason::place`].
    const LIST: &'static [Self];

    /// One value for each reason, by its place.
    fn array<T>(make: impl FnMut(usize) -> T) -> Self::Array<T>;

    /// Label value of the counter.
    fn label(self) -> &'static str;

    /// Position in [`Reason::LIST`].
    fn place(self) -> usize;

    /// A frame is lost by it: only a [`Ledger`](crate::ledger::Ledger) counts it.
    fn loses(self) -> bool;
}

/// Declares an enum of reasons from one table. A row has documentation, `loses` or `keeps`, variant and label value. A reason
/// *loses* if a frame that was taken will not get to where it should because of it. The macro makes the enum, `ALL` in the
/// order of the table, `name` for the label of the counter, `index` for its place in an array of `ALL.len()` counters.
#[macro_export]
macro_rules! reasons {
    ($(#[$doc:meta])* $visible:vis enum $reason:ident {
        $($(#[$of:meta])* $fate:ident $variant:ident = $name:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visible enum $reason {
            $($(#[$of])* $variant,)*
        }

        #[allow(dead_code, reason = "most lists need a part of it")]
        impl $reason {
            /// All reasons, in the order of [`Self::index`].
            $visible const ALL: [$reason; [$($name,)*].len()] = [$($reason::$variant,)*];

            /// Label value of the counter.
            $visible const fn name(self) -> &'static str {
                match self {
                    $($reason::$variant => $name,)*
                }
            }

            /// Position in [`Self::ALL`].
            $visible const fn index(self) -> usize {
                self as usize
            }

            /// A frame is lost by it.
            $visible const fn loses(self) -> bool {
                match self {
                    $($reason::$variant => $crate::reasons!(@loses $fate),)*
                }
            }
        }

        impl $crate::reasons::Reason for $reason {
            type Array<T> = [T; [$($name,)*].len()];

            const LIST: &'static [Self] = &Self::ALL;

            fn array<T>(make: impl FnMut(usize) -> T) -> Self::Array<T> {
                std::array::from_fn(make)
            }

            fn label(self) -> &'static str {
                self.name()
            }

            fn place(self) -> usize {
                self.index()
            }

            fn loses(self) -> bool {
                self.loses()
            }
        }
    };
    (@loses loses) => { true };
    (@loses keeps) => { false };
}

#[cfg(test)]
mod tests {
    reasons! {
        /// Two.
        enum Why {
            /// The first.
            keeps First = "first",
            /// The second.
            loses Second = "second",
        }
    }

    #[test]
    fn a_table_of_reasons_numbers_and_names_them_and_says_what_loses() {
        let all = Why::ALL.map(|reason| (reason.index(), reason.name(), reason.loses()));
        assert_eq!(all, [(0, "first", false), (1, "second", true)]);
    }
}
