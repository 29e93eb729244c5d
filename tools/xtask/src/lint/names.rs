//! What a path in the source stands for: the module that defines it, however many re-exports lie between.
//!
//! This is a small part of what a compiler does: no types, no shadowing by locals, no methods. What a macro makes is known
//! by its keyword and name. A name that cannot be resolved says nothing.

use super::source::{Module, Target};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::HashMap;
use syn::visit::{self, Visit};
use syn::{Fields, Item, ItemUse, UseTree, Visibility};

/// What kind of item a name is, as far as a rule asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Words that a parent lends to its children: traits, enums, constants, aliases, macros, structs without private fields.
    Vocabulary,
    /// What has a state of its own, or does something: structs with private fields, functions, statics.
    Working,
}

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// An item of this module.
    Item(usize, Kind),
    /// The module itself.
    Module(usize),
}

/// How a path is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For the module's own code.
    Own,
    /// It is passed on under this module's name.
    ReExport,
}

/// A path in a module's code.
pub struct Mention {
    pub meaning: Meaning,
    pub how: Use,
    pub line: usize,
}

#[derive(Default)]
struct Scope {
    children: HashMap<String, usize>,
    items: HashMap<String, Kind>,
    imports: HashMap<String, Vec<Vec<String>>>,
    globs: Vec<Vec<String>>,
}

/// The names of every module.
pub struct Names {
    scopes: Vec<Scope>,
    parents: Vec<usize>,
}

/// Re-exports in a row that are followed.
const DEEPEST: usize = 16;

impl Names {
    /// Collects what each module defines and imports.
    pub fn of(target: &Target) -> Names {
        let mut scopes: Vec<Scope> = target.modules.iter().map(scope).collect();
        for (index, module) in target.modules.iter().enumerate().skip(1) {
            if let Some(name) = module.path.last() {
                scopes[module.parent].children.insert(name.clone(), index);
            }
            for name in exported_macros(module) {
                let path = [&["crate".to_owned()], &module.path[..], std::slice::from_ref(&name)].concat();
                scopes[0].imports.entry(name).or_default().push(path);
            }
        }
        Names { scopes, parents: target.modules.iter().map(|module| module.parent).collect() }
    }

    /// What `path`, written in `module`, stands for; `None` for locals and other crates.
    pub fn resolve(&self, module: usize, path: &[String]) -> Option<Meaning> {
        self.follow(module, path, DEEPEST)
    }

    /// Every path in the code of a module that stands for something in this crate.
    pub fn mentions(&self, module: usize, source: &Module) -> Vec<Mention> {
        let mut paths = Paths::default();
        source.items.iter().for_each(|item| paths.visit_item(item));
        let mention =
            |Path { names, how, line }| Some(Mention { meaning: self.resolve(module, &names)?, how, line });
        paths.found.into_iter().filter_map(mention).collect()
    }

    fn follow(&self, module: usize, path: &[String], left: usize) -> Option<Meaning> {
        let (mut at, mut rest) = (module, path);
        let mut anchored = false;
        while let [first, after @ ..] = rest {
            at = match first.as_str() {
                "crate" => 0,
                "self" => at,
                "super" => self.parents[at],
                _ => break,
            };
            (rest, anchored) = (after, true);
        }
        let Some(first) = rest.first() else { return anchored.then_some(Meaning::Module(at)) };
        let mut meaning = self.name(at, first, rest.len() > 1, left)?;
        for (index, name) in rest.iter().enumerate().skip(1) {
            let Meaning::Module(inside) = meaning else { return Some(meaning) };
            meaning = self
                .name(inside, name, index + 1 < rest.len(), left)
                .unwrap_or(Meaning::Item(inside, Kind::Vocabulary));
        }
        Some(meaning)
    }

    /// What one name stands for in a module; `inner` if more of the path follows, so that a module is meant before an item.
    fn name(&self, module: usize, name: &str, inner: bool, left: usize) -> Option<Meaning> {
        let scope = &self.scopes[module];
        let left = left.checked_sub(1)?;
        let child = || scope.children.get(name).copied().map(Meaning::Module);
        let item = || scope.items.get(name).map(|kind| Meaning::Item(module, *kind));
        let imported = || {
            let found = scope.imports.get(name)?.iter().filter_map(|path| self.follow(module, path, left));
            let is_module = |meaning: &Meaning| matches!(meaning, Meaning::Module(_));
            found.max_by_key(|meaning| is_module(meaning) == inner)
        };
        let own = if inner { child().or_else(item) } else { item().or_else(child) };
        own.or_else(imported).or_else(|| {
            // A name that an import brings from another crate is not looked for in globs.
            let outside = scope.imports.contains_key(name);
            scope.globs.iter().filter(|_| !outside).find_map(|glob| {
                match self.follow(module, glob, left)? {
                    Meaning::Module(from) if from != module => self.name(from, name, inner, left),
                    _ => None,
                }
            })
        })
    }
}

fn scope(module: &Module) -> Scope {
    let mut scope = Scope::default();
    for item in &module.items {
        let mut define = |name: &syn::Ident, kind| scope.items.insert(name.to_string(), kind);
        match item {
            Item::Const(item) => drop(define(&item.ident, Kind::Vocabulary)),
            Item::Enum(item) => drop(define(&item.ident, Kind::Vocabulary)),
            Item::Trait(item) => drop(define(&item.ident, Kind::Vocabulary)),
            Item::Type(item) => drop(define(&item.ident, Kind::Vocabulary)),
            Item::Fn(item) => drop(define(&item.sig.ident, Kind::Working)),
            Item::Static(item) => drop(define(&item.ident, Kind::Working)),
            Item::Struct(item) => drop(define(&item.ident, kind_of(&item.fields))),
            Item::Macro(item) => match &item.ident {
                Some(name) => drop(define(name, Kind::Vocabulary)),
                None => made(item.mac.tokens.clone(), &mut scope.items),
            },
            _ => {}
        }
    }
    let mut paths = Paths::default();
    module.items.iter().for_each(|item| paths.visit_item(item));
    for import in paths.imports {
        match import.name {
            Some(name) => scope.imports.entry(name).or_default().push(import.path),
            None => scope.globs.push(import.path),
        }
    }
    scope
}

/// `#[macro_export]` puts a macro into the root, wherever it is defined.
fn exported_macros(module: &Module) -> impl Iterator<Item = String> {
    module.items.iter().filter_map(|item| match item {
        Item::Macro(item) if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) => {
            item.ident.as_ref().map(ToString::to_string)
        }
        _ => None,
    })
}

fn kind_of(fields: &Fields) -> Kind {
    let private = fields.iter().any(|field| matches!(field.vis, Visibility::Inherited));
    if private { Kind::Working } else { Kind::Vocabulary }
}

/// What a macro defines, by the words in what it is given.
fn made(tokens: TokenStream, items: &mut HashMap<String, Kind>) {
    let mut word = String::new();
    for token in tokens {
        let TokenTree::Ident(name) = token else {
            word.clear();
            continue;
        };
        match word.as_str() {
            "struct" | "enum" | "trait" | "type" | "const" => {
                items.insert(name.to_string(), Kind::Vocabulary);
            }
            "fn" | "static" => {
                items.insert(name.to_string(), Kind::Working);
            }
            _ => {}
        }
        word = name.to_string();
    }
}

struct Path {
    names: Vec<String>,
    how: Use,
    line: usize,
}

struct Import {
    /// `None` for a glob.
    name: Option<String>,
    path: Vec<String>,
}

/// Collects paths and imports from code.
#[derive(Default)]
struct Paths {
    found: Vec<Path>,
    imports: Vec<Import>,
}

impl Paths {
    fn import(&mut self, tree: &UseTree, before: &[String], how: Use) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(tree) => self.import(&tree.tree, &with(&tree.ident), how),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before, how)),
            UseTree::Name(tree) if tree.ident == "self" => {
                self.name(before.last().cloned(), before.to_vec(), how, &tree.ident);
            }
            UseTree::Name(tree) => {
                self.name(Some(tree.ident.to_string()), with(&tree.ident), how, &tree.ident)
            }
            UseTree::Rename(tree) if tree.ident == "self" => {
                self.name(Some(tree.rename.to_string()), before.to_vec(), how, &tree.rename);
            }
            UseTree::Rename(tree) => {
                self.name(Some(tree.rename.to_string()), with(&tree.ident), how, &tree.rename);
            }
            UseTree::Glob(_) => self.imports.push(Import { name: None, path: before.to_vec() }),
        }
    }

    fn name(&mut self, name: Option<String>, path: Vec<String>, how: Use, at: &syn::Ident) {
        self.found.push(Path { names: path.clone(), how, line: at.span().start().line });
        self.imports.push(Import { name, path });
    }

    /// Paths in what a macro or an attribute is given: names joined by `::` that no dot precedes.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut names: Vec<String> = Vec::new();
        let (mut line, mut colons, mut dot) = (0, 0, false);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_of_path(&mut names, line);
                        line = ident.span().start().line;
                    }
                    if !dot {
                        names.push(ident.to_string());
                    }
                    (colons, dot) = (0, false);
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !names.is_empty() => colons += 1,
                TokenTree::Group(group) => {
                    self.end_of_path(&mut names, line);
                    (colons, dot) = (0, false);
                    self.tokens(group.stream());
                }
                other => {
                    self.end_of_path(&mut names, line);
                    (colons, dot) = (0, other.to_string() == ".");
                }
            }
        }
        self.end_of_path(&mut names, line);
    }

    fn end_of_path(&mut self, names: &mut Vec<String>, line: usize) {
        if !names.is_empty() {
            self.found.push(Path { names: std::mem::take(names), how: Use::Own, line });
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let how = if matches!(item.vis, Visibility::Inherited) { Use::Own } else { Use::ReExport };
        if item.leading_colon.is_none() {
            self.import(&item.tree, &[], how);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (None, Some(first)) = (path.leading_colon, path.segments.first()) {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.found.push(Path { names, how: Use::Own, line: first.ident.span().start().line });
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.visit_path(&called.path);
        self.tokens(called.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

#[cfg(test)]
mod tests {
    use super::super::source::planted;
    use super::*;

    fn meaning(files: &[(&str, &str)], module: &str, path: &str) -> Option<String> {
        let target = planted::target(files);
        let names = Names::of(&target);
        let at = (0..target.modules.len()).find(|&at| target.modules[at].path.join("::") == module).unwrap();
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        Some(match names.resolve(at, &path)? {
            Meaning::Item(module, kind) => format!("{kind:?} of {}", target.name(module)),
            Meaning::Module(module) => target.name(module),
        })
    }

    const FILES: [(&str, &str); 4] = [
        ("src/lib.rs", "mod a; mod b; mod c; pub use a::Thing; pub use b::*; pub const SIZE: u8 = 1;"),
        ("src/a.rs", "pub struct Thing { x: u8 } pub fn thing() {}"),
        ("src/b.rs", "pub use crate::c::Open as Shut; pub enum Way { Here } pub use std::fmt::Debug;"),
        ("src/c.rs", "pub struct Open { pub x: u8 } use crate::{a, Way};"),
    ];

    #[test]
    fn names_are_followed_through_re_exports_aliases_and_globs() {
        let of = |module, path| meaning(&FILES, module, path).unwrap_or_default();
        assert_eq!(of("c", "crate::Thing"), "Working of a");
        assert_eq!(of("c", "a::Thing::new"), "Working of a");
        assert_eq!(of("c", "super::b"), "b");
        assert_eq!(of("a", "super::Shut"), "Vocabulary of c");
        assert_eq!(of("c", "Way::Here"), "Vocabulary of b");
        assert_eq!(of("a", "crate::SIZE"), "Vocabulary of the root");
        assert_eq!(of("a", "self::thing"), "Working of a");
    }

    #[test]
    fn an_exported_macro_belongs_to_the_module_that_defines_it() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "#[macro_export] macro_rules! limited { () => {} }"),
            ("src/b.rs", ""),
        ];
        assert_eq!(meaning(&files, "b", "crate::limited").unwrap(), "Vocabulary of a");
    }

    #[test]
    fn locals_and_other_crates_mean_nothing() {
        assert_eq!(meaning(&FILES, "a", "local"), None);
        assert_eq!(meaning(&FILES, "a", "std::fmt::Debug"), None);
        assert_eq!(meaning(&FILES, "b", "Debug"), None);
    }

    #[test]
    fn paths_in_bodies_macros_and_attributes_are_seen() {
        let target = planted::target(&[
            ("src/lib.rs", "mod a; mod b;"),
            (
                "src/a.rs",
                "fn x() { use super::b::Y; println!(\"{}\", crate::b::z(x.crate_b)); }\n#[arg(parse = crate::b::z)] struct A;",
            ),
            ("src/b.rs", "pub struct Y; pub fn z() {}"),
        ]);
        let names = Names::of(&target);
        let mentions = names.mentions(1, &target.modules[1]);
        let of_b = mentions.iter().filter(|mention| matches!(mention.meaning, Meaning::Item(2, _)));
        assert_eq!(of_b.map(|mention| mention.line).collect::<Vec<_>>(), [1, 1, 2]);
    }
}
