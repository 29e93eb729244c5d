//! The one list of troubles. `/readyz`, `/status`, the gauge `oncecast_reason`, log lines and the docs name a trouble by its
//! code.
//!
//! A code is `what.how`; people search for it, so it never changes its meaning. Its severity decides about readiness: a role is
//! *not ready* only where this node does no useful work and a sibling would do better. All else is *degraded*: the role
//! stays in service and says what is wrong.

/// How bad a trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The node does no useful work: `/readyz` answers 503.
    NotReady,
    /// The node works, less well than it should: `/readyz` answers 200.
    Degraded,
}

impl Severity {
    /// The word on the pages.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::NotReady => "not_ready",
            Severity::Degraded => "degraded",
        }
    }
}

/// Declares the list of troubles from one table: variant, code, severity and one sentence for people, which is the variant's
/// documentation too.
#[macro_export]
macro_rules! codes {
    ($(#[$doc:meta])* $visible:vis enum $code:ident {
        $($variant:ident = $name:literal, $severity:ident, $sentence:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $visible enum $code {
            $(#[doc = $sentence] $variant,)*
        }

        impl $code {
            /// All troubles, in the order of the table.
            $visible const ALL: &'static [$code] = &[$($code::$variant,)*];

            /// The code.
            $visible const fn name(self) -> &'static str {
                match self {
                    $($code::$variant => $name,)*
                }
            }

            /// How bad it is.
            $visible const fn severity(self) -> $crate::codes::Severity {
                match self {
                    $($code::$variant => $crate::codes::Severity::$severity,)*
                }
            }

            /// What it means, in one sentence.
            $visible const fn sentence(self) -> &'static str {
                match self {
                    $($code::$variant => $sentence,)*
                }
            }
        }
    };
}

codes! {
    /// A trouble of a node.
    pub enum Code {
        Starting = "node.starting", NotReady, "The role is still opening its sockets and its store.";
        Draining = "node.draining", NotReady, "The role was told to stop and finishes what it has.";
        Epoch = "node.epoch", Degraded, "Claims do not settle, so siblings send what this node has sent.";
        MemFit = "mem.fit", Degraded, "The sizes of this role exceed the memory that is free now.";
        Losing = "node.losing", Degraded, "Frames are being lost at this node.";
        ConsumerRefused = "consumer.refused", NotReady, "The consumer is not connected.";
        ConsumerStalled = "consumer.stalled", NotReady, "The consumer takes nothing although frames wait for it.";
        EndpointNone = "endpoint.none", Degraded, "No retry endpoint is known, so what is missing cannot be asked for.";
        StoreUnreachable = "store.unreachable", Degraded, "A shared store does not answer.";
        StoreOtherFabric = "store.other_fabric", Degraded, "The prefix of the claims belongs to another fabric.";
        LinkMissing = "link.missing", NotReady, "The interface does not exist.";
        LinkDown = "link.down", NotReady, "The interface is switched off.";
        LinkCarrier = "link.carrier", NotReady, "The interface has no carrier: nothing is at the other end.";
        LinkMulticast = "link.multicast", NotReady, "The interface has multicast switched off.";
        LinkPartial = "link.partial", Degraded, "Some of several interfaces cannot be used.";
        AddrNone = "addr.none", NotReady, "The interface has no address of the fabric's family.";
        AddrTentative = "addr.tentative", NotReady, "The kernel still looks whether another host has the address.";
        AddrDuplicate = "addr.duplicate", NotReady, "Another host has the address too.";
        AddrGone = "addr.gone", NotReady, "The address that was asked for is not there.";
        JoinLapsed = "join.lapsed", NotReady, "Groups are not joined any more, and cannot be joined again.";
        RpFilter = "sysctl.rp_filter", Degraded, "rp_filter is strict: an IPv4 fabric may be dropped in silence.";
        MarksUnseen = "marks.unseen", Degraded, "Courtesy marks are not written, or no proxy may see them.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_has_its_own_name_in_two_words_and_a_sentence() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            let (what, how) = code.name().split_once('.').unwrap();
            let plain = |word: &str| {
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            assert!(plain(what) && plain(how), "{}", code.name());
            assert!(code.sentence().ends_with('.') && !code.sentence().contains('\n'), "{}", code.name());
        }
    }

    /// A load balancer takes a node out for these and for nothing else.
    #[test]
    fn a_role_is_out_of_service_only_where_a_sibling_would_do_better() {
        let out: Vec<_> = Code::ALL.iter().filter(|code| code.severity() == Severity::NotReady).collect();
        let named = [
            Code::Starting,
            Code::Draining,
            Code::ConsumerRefused,
            Code::ConsumerStalled,
            Code::LinkMissing,
            Code::LinkDown,
            Code::LinkCarrier,
            Code::LinkMulticast,
            Code::AddrNone,
            Code::AddrTentative,
            Code::AddrDuplicate,
            Code::AddrGone,
            Code::JoinLapsed,
        ];
        assert_eq!(out, named.iter().collect::<Vec<_>>());
    }

    #[test]
    fn operations_explains_every_code() {
        let page = include_str!("../../docs/operations.md");
        for code in Code::ALL {
            assert!(page.contains(&format!("`{}`", code.name())), "{} is not explained", code.name());
        }
    }
}
