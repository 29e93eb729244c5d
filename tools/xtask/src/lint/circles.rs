//! No circles between modules.
//!
//! At each module folder the nodes are its children, each with all that is below it, and the folder's own code. An edge is a
//! use of an item, counted for the module that defines it. Naming a child (`mod`) and passing its items on (`pub use`) is no
//! use. Every strongly connected set of more than one node is a finding.
//!
//! A child may use the vocabulary of its ancestors though they use the child: traits (to implement them), enums, constants,
//! aliases, macros, and structs none of whose fields is private. Structs with private fields, functions and statics of a
//! module that uses the child make a circle: they belong in a module of their own, beside the child.

use super::names::{Kind, Meaning, Names, Use};
use super::report::Finding;
use super::source::Target;
use std::collections::BTreeMap;

/// Nodes of a folder by module index; the folder's own code has the folder's index.
#[derive(Default)]
struct Folder {
    /// From and to, and where: module and line of the first such use.
    edges: BTreeMap<(usize, usize), (usize, usize)>,
}

/// Circles in a crate.
pub fn find(target: &Target, names: &Names) -> Vec<Finding> {
    let mut folders: BTreeMap<usize, Folder> = BTreeMap::new();
    for (module, source) in target.modules.iter().enumerate() {
        for mention in names.mentions(module, source) {
            let Meaning::Item(user, kind) = mention.meaning else { continue };
            let common = target.common(module, user);
            let (from, to) = (below(target, common, module), below(target, common, user));
            let lent = to == common && kind == Kind::Vocabulary;
            let passed_on = from == common && mention.how == Use::ReExport;
            if from != to && !lent && !passed_on {
                let edges = &mut folders.entry(common).or_default().edges;
                edges.entry((from, to)).or_insert((module, mention.line));
            }
        }
    }
    folders.iter().flat_map(|(folder, graph)| circles(target, *folder, graph)).collect()
}

/// The child of `folder` that encloses `module`, or `folder` itself.
fn below(target: &Target, folder: usize, module: usize) -> usize {
    let mut at = module;
    while at != folder && target.modules[at].parent != folder {
        at = target.modules[at].parent;
    }
    at
}

fn circles(target: &Target, folder: usize, graph: &Folder) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut done: Vec<usize> = Vec::new();
    for &(start, _) in graph.edges.keys() {
        if done.contains(&start) {
            continue;
        }
        let ahead = reached(graph, start);
        let circle: Vec<usize> =
            ahead.iter().copied().filter(|&node| reached(graph, node).contains(&start)).collect();
        done.push(start);
        if !circle.contains(&start) {
            continue;
        }
        done.extend(&circle);
        findings.push(finding(target, folder, graph, &circle));
    }
    findings
}

/// Everything that can be reached from a node, itself only by way of another.
fn reached(graph: &Folder, start: usize) -> Vec<usize> {
    let mut seen = Vec::new();
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        for &(_, to) in graph.edges.keys().filter(|(from, _)| *from == node) {
            if !seen.contains(&to) {
                seen.push(to);
                open.push(to);
            }
        }
    }
    seen.sort_unstable();
    seen
}

fn finding(target: &Target, folder: usize, graph: &Folder, circle: &[usize]) -> Finding {
    let inside = |(from, to): &(usize, usize)| circle.contains(from) && circle.contains(to);
    let edges: Vec<_> = graph.edges.iter().filter(|(edge, _)| inside(edge)).collect();
    let name = |node: usize| if node == folder { "the parent".to_owned() } else { target.name(node) };
    let place = |(module, line): (usize, usize)| format!("{}:{line}", target.file(module).display());
    let told: Vec<String> = edges
        .iter()
        .map(|&(edge, at)| format!("{} uses {} ({})", name(edge.0), name(edge.1), place(*at)))
        .collect();
    let (module, line) = edges.first().map_or((folder, 1), |(_, at)| **at);
    let rule = if circle.contains(&folder) { "parent and child circle" } else { "circle" };
    let within = target.name(folder);
    Finding {
        file: target.file(module).to_owned(),
        line,
        rule,
        text: format!("in {within}: {}", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::planted;
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let target = planted::target(files);
        find(&target, &Names::of(&target)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn two_siblings_that_import_each_other_are_found() {
        let found = findings(&[
            ("src/lib.rs", "pub mod a; pub mod b;"),
            ("src/a.rs", "use crate::b::B; pub struct A(B);"),
            ("src/b.rs", "pub struct B;\nfn b() { let _: Option<super::a::A> = None; }"),
        ]);
        assert_eq!(
            found,
            [
                "crate/src/a.rs:1: circle: in the root: a uses b (crate/src/a.rs:1), b uses a (crate/src/b.rs:2)"
            ]
        );
    }

    #[test]
    fn a_ring_of_three_through_deep_children_is_one_finding() {
        let found = findings(&[
            (
                "src/lib.rs",
                "mod a { pub mod x { use crate::b::y::Y; pub struct X; } } mod b { pub mod y { use crate::c::C; pub struct Y; } } mod c; mod d { use crate::c::C; }",
            ),
            ("src/c.rs", "pub struct C; fn c() { crate::a::x::X; }"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("a uses b") && found[0].contains("c uses a") && !found[0].contains('d'),
            "{found:?}"
        );
    }

    #[test]
    fn a_re_export_counts_for_the_module_that_defines() {
        let through_the_parent = |c: &str| {
            findings(&[
                ("src/lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B;"),
                ("src/a.rs", "use crate::B; pub struct A;"),
                ("src/b.rs", c),
                ("src/c.rs", "use crate::{A, B}; pub struct C;"),
            ])
        };
        assert_eq!(through_the_parent("pub struct B;"), [""; 0]);
        assert_eq!(through_the_parent("use crate::A; pub struct B;").len(), 1);
    }

    #[test]
    fn a_parent_that_uses_its_children_and_names_them_is_fine() {
        let found = findings(&[
            (
                "src/lib.rs",
                "mod a; pub use a::A; fn f(_: A) { a::g() } pub trait T {} pub enum E {} pub struct P { pub x: u8 }",
            ),
            ("src/a.rs", "pub struct A; pub fn g() {} impl crate::T for A {} use super::{E, P};"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_child_that_works_on_its_parent_is_found_where_the_parent_uses_it() {
        let child = "use super::P; pub fn g(p: &P) { p.x; }";
        let found = findings(&[
            ("src/lib.rs", "mod a; struct P { x: u8 } fn f(p: &P) { a::g(p) }"),
            ("src/a.rs", child),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("parent and child circle"), "{found:?}");
        let unused =
            findings(&[("src/lib.rs", "mod a; pub use a::g; struct P { x: u8 }"), ("src/a.rs", child)]);
        assert_eq!(unused, [""; 0]);
    }

    #[test]
    fn what_only_tests_import_is_no_circle() {
        let found = findings(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
            ("src/b.rs", "use crate::a::A; pub struct B;"),
        ]);
        assert_eq!(found, [""; 0]);
    }
}
