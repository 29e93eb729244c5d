//! What a role needs of which interfaces, and what it says about them.
//!
//! The judgement is pure (`Demands::judge`); a task on the control runtime gives it the links whenever they change, and tells
//! the log and the condition `links`.
//!
//! * None of the interfaces that one option names can be used: the role is not ready.
//! * Some can: the role works, degraded.
//! * A role that starts waits while the kernel still looks at an address that it would use, and says which one.

use super::feed::{Feed, follow};
use super::rp_filter;
use crate::{Code, Condition, Lifecycle};
use link_watch::{AddressState, Links, Need, Standing};
use std::net::IpAddr;

/// Interfaces that one option names, and what is needed of each.
#[derive(Clone, Debug)]
pub struct Demand {
    /// The option.
    pub option: &'static str,
    /// Names of the interfaces.
    pub names: Vec<String>,
    /// What is needed of each.
    pub need: Need,
    /// A start waits until one of them can be used.
    pub waits: bool,
}

/// All demands of a role.
#[derive(Debug)]
pub struct Demands {
    demands: Vec<Demand>,
    /// Whether IPv4 datagrams come in by the interfaces of the first demand.
    receives_v4: bool,
    /// What was known of each interface of each demand: where it stood, and its number.
    known: Vec<Vec<(Standing, Option<u32>)>>,
    /// Addresses that an option names, on whatever interface, and where they stood.
    addresses: Vec<(&'static str, IpAddr, Standing)>,
}

/// One line for the log.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    bad: bool,
    text: String,
}

/// What stands now.
#[derive(Debug, PartialEq, Eq)]
struct Judgement {
    lines: Vec<Line>,
    trouble: Option<Trouble>,
    /// What there is, for people.
    detail: String,
}

/// Why a role cannot work, or not as well as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// No interface of a demand can be used; the first one stands so.
    All(Standing),
    /// Some interfaces of a demand can be used, and some cannot.
    Some,
}

impl Demands {
    /// Nothing is known of any interface.
    pub fn new(demands: Vec<Demand>) -> Demands {
        let known = demands.iter().map(|demand| vec![(Standing::Usable, None); demand.names.len()]).collect();
        Demands { demands, receives_v4: false, known, addresses: Vec::new() }
    }

    /// An option names this address, on whatever interface it is.
    pub fn address(mut self, option: &'static str, ip: IpAddr) -> Demands {
        self.addresses.push((option, ip, Standing::Usable));
        self
    }

    /// The groups of an IPv4 fabric are received by the interfaces of the first demand: `rp_filter` matters.
    pub fn receive_v4(self, receives_v4: bool) -> Demands {
        Demands { receives_v4, ..self }
    }

    /// Follows the links until the role drains. Completes when no address is waited for any more. Must be called on the
    /// control runtime.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub async fn follow(mut self, lifecycle: &Lifecycle) -> anyhow::Result<Feed> {
        let condition = lifecycle.condition("links");
        let mut feed = follow(lifecycle)?;
        let mut said = String::new();
        while let Some(waits) = self.waits_for(&feed.seen()) {
            if said != waits.1 {
                tracing::warn!("the start waits: {}", waits.1);
                said.clone_from(&waits.1);
            }
            condition.fails(code(waits.0), &waits.1);
            feed.changed().await;
        }
        if self.receives_v4
            && let Some(first) = self.demands.first()
        {
            watch_rp_filter(first.names.clone(), lifecycle);
        }
        // Before the role takes its first frame.
        self.tell(&feed.seen(), &condition);
        let (mut links, lifecycle) = (feed.clone(), lifecycle.clone());
        let joins = lifecycle.condition("joins");
        tokio::spawn(async move {
            let mut unjoined = links.unjoined();
            loop {
                tell_joins(*unjoined.borrow_and_update(), &joins);
                tokio::select! {
                    () = lifecycle.drain_began() => return,
                    () = links.changed() => self.tell(&links.seen(), &condition),
                    _ = unjoined.changed() => {}
                }
            }
        });
        Ok(feed)
    }

    /// What a start waits for.
    fn waits_for(&self, links: &Links) -> Option<(Standing, String)> {
        let named = self.addresses.iter().map(|(option, ip, _)| (option, ip, standing_of(*ip, links)));
        let mut tentative = named.filter(|(.., standing)| matches!(standing, Standing::Tentative(_)));
        if let Some((option, ip, standing)) = tentative.next() {
            return Some((standing, format!("{option} {ip} {standing}")));
        }
        self.demands.iter().find_map(|demand| {
            let standings = demand.names.iter().map(|name| {
                let link = links.by_name(name);
                // What does not exist is an error of the start, which says so better.
                (name, demand.need.standing_at_start(link), link.is_some())
            });
            let mut all = standings.clone();
            let none_usable = !all.any(|(_, standing, _)| standing == Standing::Usable);
            let mut waited = standings.filter(|(_, standing, exists)| {
                let tentative = matches!(standing, Standing::Tentative(_));
                *exists && (tentative || demand.waits && none_usable && *standing != Standing::Usable)
            });
            let (name, standing, _) = waited.next()?;
            Some((standing, format!("{} {name} {standing}", demand.option)))
        })
    }

    fn tell(&mut self, links: &Links, condition: &Condition) {
        let Judgement { lines, trouble, detail } = self.judge(links);
        for Line { bad, text } in lines {
            match bad {
                true => tracing::warn!("{text}"),
                false => tracing::info!("{text}"),
            }
        }
        tell(condition, trouble, &detail);
    }

    /// Where every interface stands, and what is new about it.
    fn judge(&mut self, links: &Links) -> Judgement {
        let (mut lines, mut worst, mut said) = (Vec::new(), None, Vec::new());
        for (demand, known) in self.demands.iter().zip(&mut self.known) {
            let mut standings = Vec::new();
            for (name, known) in demand.names.iter().zip(known) {
                let link = links.by_name(name);
                let now = (demand.need.standing(link), link.map(|link| link.index));
                let at = format!("{} {name}", demand.option);
                if let (Some(before), Some(index)) = (known.1, now.1)
                    && before != index
                {
                    let text = format!("{at} was made again: number {index} instead of {before}");
                    lines.push(Line { bad: true, text });
                }
                if known.0 != now.0 {
                    lines.push(Line { bad: now.0 != Standing::Usable, text: format!("{at} {}", now.0) });
                }
                // The number that it had is remembered while it is gone.
                *known = (now.0, now.1.or(known.1));
                standings.push((now.0, at));
            }
            let bad = standings.iter().filter(|(standing, _)| *standing != Standing::Usable);
            let texts: Vec<_> = bad.clone().map(|(standing, at)| format!("{at} {standing}")).collect();
            match bad.clone().next() {
                Some((first, _)) if texts.len() == standings.len() => {
                    worst = worse(worst, Trouble::All(*first));
                }
                Some(_) => worst = worst.or(Some(Trouble::Some)),
                None => {}
            }
            said.extend(texts);
        }
        for (option, ip, known) in &mut self.addresses {
            let now = standing_of(*ip, links);
            let text = format!("{option} {ip} {now}");
            if *known != now {
                lines.push(Line { bad: now != Standing::Usable, text: text.clone() });
            }
            *known = now;
            if now != Standing::Usable {
                said.push(text);
                worst = worse(worst, Trouble::All(now));
            }
        }
        let detail = if said.is_empty() { self.all_well() } else { said.join("; ") };
        Judgement { lines, trouble: worst, detail }
    }

    fn all_well(&self) -> String {
        let each = self.demands.iter().map(|demand| format!("{} {}", demand.option, demand.names.join(",")));
        let mut each: Vec<_> = each.collect();
        each.dedup();
        format!("{}: usable", each.join(", "))
    }
}

/// The first that makes a role useless stays.
fn worse(known: Option<Trouble>, new: Trouble) -> Option<Trouble> {
    known.filter(|trouble| matches!(trouble, Trouble::All(_))).or(Some(new))
}

fn standing_of(ip: IpAddr, links: &Links) -> Standing {
    let found = links.with_address(ip).and_then(|link| link.address(ip));
    match found.map(|address| address.state) {
        None => Standing::Gone(ip),
        Some(AddressState::Tentative) => Standing::Tentative(ip),
        Some(AddressState::Duplicate) => Standing::Duplicate(ip),
        Some(AddressState::Preferred | AddressState::Deprecated) => Standing::Usable,
    }
}

/// The one place where troubles of links become conditions.
fn tell(condition: &Condition, trouble: Option<Trouble>, detail: &str) {
    match trouble {
        None => condition.met(detail),
        Some(Trouble::Some) => condition.fails(Code::LinkPartial, detail),
        Some(Trouble::All(standing)) => condition.fails(code(standing), detail),
    }
}

fn code(standing: Standing) -> Code {
    match standing {
        Standing::Missing => Code::LinkMissing,
        Standing::Down => Code::LinkDown,
        Standing::NoCarrier | Standing::Usable => Code::LinkCarrier,
        Standing::NoMulticast => Code::LinkMulticast,
        Standing::NoAddress => Code::AddrNone,
        Standing::Tentative(_) => Code::AddrTentative,
        Standing::Duplicate(_) => Code::AddrDuplicate,
        Standing::Gone(_) => Code::AddrGone,
    }
}

fn tell_joins(unjoined: usize, condition: &Condition) {
    match unjoined {
        0 => condition.met("every group is joined"),
        _ => {
            let text = format!("{unjoined} sockets could not join their groups again");
            condition.fails(Code::JoinLapsed, &text);
        }
    }
}

/// Says at the start where the filter is strict.
fn watch_rp_filter(names: Vec<String>, lifecycle: &Lifecycle) {
    let condition = lifecycle.condition("rp_filter");
    let strict = rp_filter::strict(&names);
    if strict.is_empty() {
        return condition.met("not strict");
    }
    let text = format!(
        "rp_filter is strict on {}: IPv4 datagrams whose source is not routed by it are dropped in silence ({} so far on this \
         host); `sysctl net.ipv4.conf.{}.rp_filter=2` makes it loose",
        strict.join(", "),
        rp_filter::dropped().unwrap_or(0),
        strict[0]
    );
    tracing::warn!("{text}");
    condition.fails(Code::RpFilter, &text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use link_watch::{Address, AddressState, Event, Family, Link};

    fn demand(names: &[&str]) -> Demand {
        Demand {
            option: "--iface",
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            need: Need::address_of(Family::V6),
            waits: false,
        }
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up: true,
            carrier: true,
            multicast: true,
            is_loopback: false,
            mtu: 1500,
            losses: 0,
            addresses: vec![Address { ip: "fd10::1".parse().unwrap(), state: AddressState::Preferred }],
        }
    }

    fn links(each: &[Link]) -> Links {
        let mut links = Links::default();
        for link in each {
            links.apply(Event::Link(link.clone()));
        }
        links
    }

    fn texts(judgement: &Judgement) -> Vec<&str> {
        judgement.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_only_interface_that_loses_its_carrier_makes_a_role_unready() {
        let mut demands = Demands::new(vec![demand(&["eth0"])]);
        let well = demands.judge(&links(&[link(2, "eth0")]));
        assert_eq!((well.lines.len(), well.trouble), (0, None));
        let cut = Link { carrier: false, ..link(2, "eth0") };
        let judged = demands.judge(&links(std::slice::from_ref(&cut)));
        assert_eq!(judged.trouble, Some(Trouble::All(Standing::NoCarrier)));
        assert_eq!(texts(&judged), ["--iface eth0 has no carrier"]);
        assert_eq!(texts(&demands.judge(&links(&[cut]))), [""; 0], "said once");
        let judged = demands.judge(&links(&[link(2, "eth0")]));
        assert_eq!(judged.trouble, None);
        assert_eq!(judged.lines, [Line { bad: false, text: "--iface eth0 is usable".to_owned() }]);
    }

    #[test]
    fn one_line_of_two_degrades() {
        let mut demands = Demands::new(vec![demand(&["eth0", "eth1"])]);
        let down = Link { up: false, ..link(3, "eth1") };
        let judged = demands.judge(&links(&[link(2, "eth0"), down]));
        assert_eq!(judged.trouble, Some(Trouble::Some));
        assert_eq!(judged.detail, "--iface eth1 is down");
    }

    #[test]
    fn an_interface_that_was_made_again_is_named_with_both_numbers() {
        let mut demands = Demands::new(vec![demand(&["eth0"])]);
        demands.judge(&links(&[link(2, "eth0")]));
        let judged = demands.judge(&links(&[]));
        assert_eq!(judged.trouble, Some(Trouble::All(Standing::Missing)));
        let judged = demands.judge(&links(&[link(9, "eth0")]));
        let expected = ["--iface eth0 was made again: number 9 instead of 2", "--iface eth0 is usable"];
        assert_eq!(texts(&judged), expected);
    }

    #[test]
    fn a_start_waits_for_a_tentative_address_and_for_one_that_it_will_choose() {
        let tentative = |ip: &str| Address { ip: ip.parse().unwrap(), state: AddressState::Tentative };
        let both = Link {
            addresses: [link(2, "eth0").addresses, vec![tentative("fd10::2")]].concat(),
            ..link(2, "eth0")
        };
        let demands = Demands::new(vec![demand(&["eth0"])]);
        assert!(demands.waits_for(&links(&[both])).unwrap().1.contains("fd10::2"));
        assert_eq!(demands.waits_for(&links(&[link(2, "eth0")])), None);
        let bare = Link { addresses: Vec::new(), ..link(2, "eth0") };
        assert_eq!(
            demands.waits_for(&links(std::slice::from_ref(&bare))),
            None,
            "it starts, and is not ready"
        );
        let chooses = Demands::new(vec![Demand { waits: true, ..demand(&["eth0"]) }]);
        assert!(chooses.waits_for(&links(&[bare])).is_some());
        assert_eq!(chooses.waits_for(&links(&[])), None, "what does not exist is an error of the start");
    }
}
