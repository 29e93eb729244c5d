//! Files, functions and types that are too large to be read at once.
//!
//! A file has at most 700 lines without its tests, a function 80, a struct 15 fields. Configuration (`clap` groups, and names
//! that end in `Config` or `Settings`) and counters (most fields are numbers that only grow) may be wider. A comment line
//! `// Long because …` or `// Wide because …` right above allows an exception; for a file it stands in its head.

use super::report::Finding;
use super::source::{File, Target};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Fields, ItemStruct, Meta, Type};

const FILE: usize = 700;
const FUNCTION: usize = 80;
const FIELDS: usize = 15;
const LONG: &str = "// Long because ";
const WIDE: &str = "// Wide because ";

/// What is too large in a crate.
pub fn find(target: &Target) -> Vec<Finding> {
    let mut findings: Vec<Finding> = target.files.iter().filter_map(file).collect();
    for module in &target.modules {
        let mut sizes = Sizes { file: &target.files[module.file], findings: Vec::new() };
        module.items.iter().for_each(|item| sizes.visit_item(item));
        findings.append(&mut sizes.findings);
    }
    findings
}

fn file(file: &File) -> Option<Finding> {
    let lines = file.lines.len() - file.test_lines.min(file.lines.len());
    let mut head = file.lines.iter().take_while(|line| line.is_empty() || line.starts_with("//"));
    let excused = head.any(|line| line.starts_with(LONG));
    let text = format!("{lines} lines without tests, at most {FILE}");
    (lines > FILE && !excused).then(|| finding(&file.path, 1, "long file", text))
}

fn finding(file: &Path, line: usize, rule: &'static str, text: String) -> Finding {
    Finding { file: file.to_owned(), line, rule, text }
}

struct Sizes<'a> {
    file: &'a File,
    findings: Vec<Finding>,
}

impl Sizes<'_> {
    /// Whether an excuse stands among the comments and attributes right above a line.
    fn excused(&self, line: usize, excuse: &str) -> bool {
        let above = self.file.lines[..line - 1].iter().rev().map(|line| line.trim_start());
        above
            .take_while(|line| line.starts_with("//") || line.starts_with('#'))
            .any(|line| line.starts_with(excuse))
    }

    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = signature.ident.span().start().line;
        let lines = body.brace_token.span.close().end().line - line + 1;
        if lines > FUNCTION && !self.excused(line, LONG) {
            let text = format!("`{}` has {lines} lines, at most {FUNCTION}", signature.ident);
            self.findings.push(finding(&self.file.path, line, "long function", text));
        }
    }
}

impl<'ast> Visit<'ast> for Sizes<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let line = item.ident.span().start().line;
        let fields = item.fields.len();
        let may_be_wide = is_configuration(item) || are_counters(&item.fields);
        if fields > FIELDS && !may_be_wide && !self.excused(line, WIDE) {
            let text = format!("`{}` has {fields} fields, at most {FIELDS}", item.ident);
            self.findings.push(finding(&self.file.path, line, "wide type", text));
        }
        visit::visit_item_struct(self, item);
    }
}

fn is_configuration(item: &ItemStruct) -> bool {
    let name = item.ident.to_string();
    let derived = |list: &syn::MetaList| {
        let text = list.tokens.to_string();
        text.split([' ', ',', ':']).any(|word| ["Args", "Parser"].contains(&word))
    };
    let by_clap = item.attrs.iter().any(
        |attribute| matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("derive") && derived(list)),
    );
    by_clap || name.ends_with("Config") || name.ends_with("Settings")
}

/// Three of four fields count something.
fn are_counters(fields: &Fields) -> bool {
    let counting = fields.iter().filter(|field| counts(&field.ty)).count();
    4 * counting >= 3 * fields.len()
}

fn counts(ty: &Type) -> bool {
    match ty {
        Type::Array(array) => counts(&array.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            let name = last.ident.to_string();
            let ends = ["Count", "Counter", "Counters", "Gauge", "Histogram", "Latency", "Cell"]
                .iter()
                .any(|end| name.ends_with(end));
            ends || ["u64", "AtomicU64"].contains(&name.as_str())
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::planted;
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        find(&planted::target(&[("src/lib.rs", text)]))
            .iter()
            .map(|finding| finding.rule.to_owned())
            .collect()
    }

    #[test]
    fn a_long_file_is_found_unless_tests_make_it_long_or_its_head_says_why() {
        let lines = "const X: u8 = 1;\n".repeat(FILE);
        assert_eq!(findings(&lines), [""; 0]);
        assert_eq!(findings(&format!("{lines}const Y: u8 = 1;\n")), ["long file"]);
        assert_eq!(findings(&format!("{lines}#[cfg(test)]\nmod tests {{\n    fn x() {{}}\n}}\n")), [""; 0]);
        assert_eq!(findings(&format!("//! Head.\n// Long because it is a table.\n{lines}")), [""; 0]);
    }

    #[test]
    fn a_long_function_is_found_unless_a_line_above_says_why() {
        let body = |lines| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
        assert_eq!(findings(&body(FUNCTION - 2)), [""; 0]);
        assert_eq!(findings(&body(FUNCTION - 1)), ["long function"]);
        assert_eq!(findings(&format!("impl X {{\n{}}}\n", body(FUNCTION - 1))), ["long function"]);
        let excused = format!(
            "/// Doc.\n// Long because it is one table,\n// read from top to bottom.\n#[inline]\n{}",
            body(FUNCTION)
        );
        assert_eq!(findings(&excused), [""; 0]);
        assert_eq!(findings(&format!("// Long because.\n\n{}", body(FUNCTION))), ["long function"]);
    }

    #[test]
    fn a_wide_struct_is_found_unless_it_is_configuration_or_counters_or_says_why() {
        let of = |head: &str, ty: &str| {
            let fields: String = (0..=FIELDS).map(|field| format!("    f{field}: {ty},\n")).collect();
            findings(&format!("{head} {{\n{fields}}}\n"))
        };
        assert_eq!(of("struct World", "Vec<u8>"), ["wide type"]);
        assert_eq!(of("// Wide because each is one stage.\nstruct World", "Vec<u8>"), [""; 0]);
        assert_eq!(of("#[derive(clap::Args, Debug)]\nstruct Options", "String"), [""; 0]);
        assert_eq!(of("struct RoleConfig", "String"), [""; 0]);
        assert_eq!(of("struct Tally", "AtomicU64"), [""; 0]);
        assert_eq!(of("struct Rows", "[u64; 4]"), [""; 0]);
    }
}
