//! Closed lists of reasons: everything that is dropped, closed or given up has one, and every one has a counter.

/// Declares an enum of reasons from one table of documentation, variant and label value: the enum, `ALL` in the order of the
/// table, `name` for the label of the counter, `index` for its place in an array of `ALL.len()` counters.
#[macro_export]
macro_rules! reasons {
    ($(#[$doc:meta])* $visible:vis enum $reason:ident { $($(#[$of:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visible enum $reason {
            $($(#[$of])* $variant,)*
        }

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
        }
    };
}

#[cfg(test)]
mod tests {
    reasons! {
        /// Two.
        enum Reason {
            /// The first.
            First = "first",
            /// The second.
            Second = "second",
        }
    }

    #[test]
    fn a_table_of_reasons_numbers_and_names_them() {
        let all = Reason::ALL.map(|reason| (reason.index(), reason.name()));
        assert_eq!(all, [(0, "first"), (1, "second")]);
    }
}
