//! The source of a crate as a tree of modules, without its tests.
//!
//! What counts: `src/` of every crate, from `lib.rs`, `main.rs` and each file of `src/bin`. Items under `#[cfg(test)]` are
//! taken out, and their lines are counted, so that a size is one without tests.

use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::{Attribute, ImplItem, Item, ItemMod, Meta};

/// The crates of a workspace.
pub struct Workspace {
    root: PathBuf,
    /// Folder of each crate, relative to the root.
    pub folders: Vec<PathBuf>,
}

impl Workspace {
    /// Reads the members from `Cargo.toml`.
    pub fn read(root: &Path) -> anyhow::Result<Workspace> {
        let path = root.join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(&path)
            .with_context(|| path.display().to_string())?
            .parse()
            .with_context(|| path.display().to_string())?;
        let members = manifest.get("workspace").and_then(|table| table.get("members")?.as_array());
        let folders = members.context("no members in Cargo.toml")?.iter();
        let folders = folders.filter_map(|member| member.as_str()).map(PathBuf::from).collect();
        Ok(Workspace { root: root.to_owned(), folders })
    }

    /// The library and the programs of a crate.
    pub fn targets(&self, folder: &Path) -> anyhow::Result<Vec<Target>> {
        let src = folder.join("src");
        let mut roots = BTreeSet::from([src.join("lib.rs"), src.join("main.rs")]);
        roots.retain(|root| self.root.join(root).exists());
        if let Ok(programs) = std::fs::read_dir(self.root.join(&src).join("bin")) {
            for program in programs {
                roots.insert(src.join("bin").join(program?.file_name()));
            }
        }
        let read = |path: &Path| std::fs::read_to_string(self.root.join(path)).ok();
        roots.iter().map(|root| Target::read(folder, root, &read)).collect()
    }
}

/// A library or a program: its modules, the root first.
pub struct Target {
    /// Folder of its crate.
    pub folder: PathBuf,
    pub modules: Vec<Module>,
    pub files: Vec<File>,
}

/// A module without its tests.
pub struct Module {
    /// Names from the root down; empty for the root.
    pub path: Vec<String>,
    /// Index of the parent; the root is its own.
    pub parent: usize,
    /// Index of its file.
    pub file: usize,
    /// What it defines itself.
    pub items: Vec<Item>,
}

/// A file that holds one module, or several.
pub struct File {
    pub path: PathBuf,
    pub lines: Vec<String>,
    /// Lines of items that exist in tests only.
    pub test_lines: usize,
}

impl Target {
    /// Reads from the root file on; `read` gives the text of a file, if it is there.
    pub fn read(
        folder: &Path,
        root: &Path,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> anyhow::Result<Target> {
        let mut target = Target { folder: folder.to_owned(), modules: Vec::new(), files: Vec::new() };
        let below = root.parent().context("a file without a folder")?;
        target.add_file(read, root, below, Vec::new(), 0)?;
        Ok(target)
    }

    /// The module that encloses both, or is one of them.
    pub fn common(&self, one: usize, other: usize) -> usize {
        let mut at = one;
        while !self.modules[other].path.starts_with(&self.modules[at].path) {
            at = self.modules[at].parent;
        }
        at
    }

    /// Name for people.
    pub fn name(&self, module: usize) -> String {
        match &self.modules[module].path[..] {
            [] => "the root".to_owned(),
            path => path.join("::"),
        }
    }

    /// Path of a module's file.
    pub fn file(&self, module: usize) -> &Path {
        &self.files[self.modules[module].file].path
    }

    fn add_file(
        &mut self,
        read: &dyn Fn(&Path) -> Option<String>,
        path: &Path,
        below: &Path,
        name: Vec<String>,
        parent: usize,
    ) -> anyhow::Result<()> {
        let text = read(path).with_context(|| format!("{} is missing", path.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        let lines = text.lines().map(str::to_owned).collect();
        self.files.push(File { path: path.to_owned(), lines, test_lines: 0 });
        let file = self.files.len() - 1;
        self.add_module(read, parsed.items, file, below, name, parent)
    }

    /// Adds a module whose items are known, and then its children.
    fn add_module(
        &mut self,
        read: &dyn Fn(&Path) -> Option<String>,
        items: Vec<Item>,
        file: usize,
        below: &Path,
        path: Vec<String>,
        parent: usize,
    ) -> anyhow::Result<()> {
        let mut children = Vec::new();
        let mut own = Vec::new();
        for mut item in items {
            if is_test(attributes(&item)) {
                self.files[file].test_lines += height(&item);
                continue;
            }
            if let Item::Impl(item) = &mut item {
                item.items.retain(|inner| {
                    let test = is_test(impl_attributes(inner));
                    self.files[file].test_lines += if test { height(inner) } else { 0 };
                    !test
                });
            }
            match item {
                Item::Mod(child) => children.push(child),
                item => own.push(item),
            }
        }
        self.modules.push(Module { path: path.clone(), parent, file, items: own });
        let index = self.modules.len() - 1;
        for child in children {
            self.add_child(read, child, index, below)?;
        }
        Ok(())
    }

    fn add_child(
        &mut self,
        read: &dyn Fn(&Path) -> Option<String>,
        child: ItemMod,
        parent: usize,
        below: &Path,
    ) -> anyhow::Result<()> {
        let name = child.ident.to_string();
        let path = [&self.modules[parent].path[..], std::slice::from_ref(&name)].concat();
        let folder = below.join(&name);
        if let Some((_, items)) = child.content {
            return self.add_module(read, items, self.modules[parent].file, &folder, path, parent);
        }
        let places = [below.join(format!("{name}.rs")), folder.join("mod.rs")];
        if child.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            bail!("{}: #[path] on `mod {name}` is not understood", self.file(parent).display());
        }
        match places.iter().find(|place| read(place).is_some()) {
            Some(place) => self.add_file(read, place, &folder, path, parent),
            None => bail!("{} names `mod {name}`, which has no file", self.file(parent).display()),
        }
    }
}

/// Lines that a piece of source takes, with its attributes and documentation.
fn height(of: &impl Spanned) -> usize {
    let span = of.span();
    span.end().line - span.start().line + 1
}

/// Whether `#[cfg(test)]`, or `#[cfg(all(test, …))]`, stands here.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        let text = list.tokens.to_string();
        text == "test"
            || text.starts_with("all (") && text.split([' ', '(', ')', ',']).any(|word| word == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn impl_attributes(item: &ImplItem) -> &[Attribute] {
    match item {
        ImplItem::Const(item) => &item.attrs,
        ImplItem::Fn(item) => &item.attrs,
        ImplItem::Type(item) => &item.attrs,
        ImplItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
pub mod planted {
    //! Sources made up for a test.

    use super::*;

    /// A crate `crate/` whose files have these texts; the first is the root.
    pub fn target(files: &[(&str, &str)]) -> Target {
        in_folder("crate", files)
    }

    /// The same in another folder.
    pub fn in_folder(folder: &str, files: &[(&str, &str)]) -> Target {
        let folder = Path::new(folder);
        let read = |path: &Path| {
            let name = path.strip_prefix(folder).ok()?;
            files.iter().find(|(file, _)| Path::new(file) == name).map(|(_, text)| (*text).to_owned())
        };
        Target::read(folder, &folder.join(files[0].0), &read).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_taken_out_and_their_lines_counted() {
        let target = planted::target(&[
            (
                "src/lib.rs",
                "mod a;\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n#[cfg(test)]\nmod more;\n",
            ),
            ("src/a.rs", "struct A;\nimpl A {\n    fn x() {}\n    #[cfg(test)]\n    fn y() {}\n}\n"),
        ]);
        assert_eq!(target.modules.len(), 2);
        assert_eq!(target.files.iter().map(|file| file.test_lines).collect::<Vec<_>>(), [6, 2]);
    }

    #[test]
    fn modules_are_found_beside_and_below_their_parent() {
        let target = planted::target(&[
            ("src/main.rs", "mod a; mod b { mod c; }"),
            ("src/a/mod.rs", "mod d;"),
            ("src/a/d.rs", ""),
            ("src/b/c.rs", ""),
        ]);
        let paths: Vec<String> = target.modules.iter().map(|module| module.path.join("::")).collect();
        assert_eq!(paths, ["", "a", "a::d", "b", "b::c"]);
        assert_eq!(target.common(2, 4), 0);
        assert_eq!(target.common(2, 1), 1);
    }
}
