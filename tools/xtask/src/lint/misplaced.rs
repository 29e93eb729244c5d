//! Code in the wrong place: an inherent `impl` away from its type, a batch receive outside the chassis, unsafe code.

use super::names::{Meaning, Names};
use super::report::Finding;
use super::source::{Module, Target};
use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Item, Type};

/// The crates whose purpose is unsafe code.
const UNSAFE: [&str; 2] = ["multicast-io", "huge-pages"];
/// Crates that receive through the chassis, and where the chassis is.
const ROLES: [&str; 4] = ["proxy-ingress", "listener-egress", "retry-endpoint", "service"];
const CHASSIS: &str = "service/src/worker";

/// Misplaced code in a crate.
pub fn find(target: &Target, names: &Names) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, module) in target.modules.iter().enumerate() {
        findings.extend(impls(target, names, index, module));
        let file = target.file(index);
        let mut calls = Calls::default();
        module.items.iter().for_each(|item| calls.visit_item(item));
        let finding =
            |line, rule, text: &str| Finding { file: file.to_owned(), line, rule, text: text.to_owned() };
        if receives_by_chassis(target, file) {
            let text = format!("batches are received in {CHASSIS} only");
            findings.extend(calls.receives.iter().map(|line| finding(*line, "batch receive", &text)));
        }
        if !UNSAFE.iter().any(|folder| target.folder == Path::new(folder)) {
            let text = format!("unsafe code lives in {} only", UNSAFE.join(" and "));
            findings.extend(calls.unsafes.iter().map(|line| finding(*line, "unsafe", &text)));
        }
    }
    findings
}

fn receives_by_chassis(target: &Target, file: &Path) -> bool {
    ROLES.iter().any(|folder| target.folder == Path::new(folder)) && !file.starts_with(CHASSIS)
}

/// Inherent impls whose type another file defines: a child that works on its parent's fields, or a sibling on a sibling's.
fn impls(target: &Target, names: &Names, index: usize, module: &Module) -> Vec<Finding> {
    let misplaced = |item: &Item| {
        let Item::Impl(item) = item else { return None };
        let Type::Path(of) = &*item.self_ty else { return None };
        if item.trait_.is_some() {
            return None;
        }
        let path: Vec<String> = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let Some(Meaning::Item(home, _)) = names.resolve(index, &path) else { return None };
        (target.modules[home].file != module.file).then(|| Finding {
            file: target.file(index).to_owned(),
            line: item.impl_token.span.start().line,
            rule: "impl away from its type",
            text: format!("`{}` is defined in {}", path.join("::"), target.file(home).display()),
        })
    };
    module.items.iter().filter_map(misplaced).collect()
}

/// Lines of calls that a rule asks for.
#[derive(Default)]
struct Calls {
    receives: Vec<usize>,
    unsafes: Vec<usize>,
}

impl Calls {
    /// The same in what a macro is given.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut before = String::new();
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            let line = token.span().start().line;
            match &token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(name) if name == "unsafe" => self.unsafes.push(line),
                TokenTree::Ident(name) if name == "recvmmsg" => self.receives.push(line),
                TokenTree::Ident(name) if name == "receive" && before == "." => {
                    let two =
                        matches!(tokens.peek(), Some(TokenTree::Group(group)) if has_comma(group.stream()));
                    self.receives.extend(two.then_some(line));
                }
                _ => {}
            }
            before = token.to_string();
        }
    }
}

fn has_comma(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','))
}

impl<'ast> Visit<'ast> for Calls {
    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        // A burst and how many: methods of the same name that take something else are no batch receive.
        if call.method == "receive" && call.args.len() == 2 {
            self.receives.push(call.method.span().start().line);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let batch =
            matches!(&names[..], [.., owner, last] if owner.ends_with("Receiver") && last == "receive");
        if batch || names.last().is_some_and(|last| last == "recvmmsg") {
            self.receives.extend(path.segments.first().map(|first| first.ident.span().start().line));
        }
        visit::visit_path(self, path);
    }

    fn visit_use_name(&mut self, name: &'ast syn::UseName) {
        if name.ident == "recvmmsg" {
            self.receives.push(name.ident.span().start().line);
        }
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.tokens(called.tokens.clone());
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.unsafes.push(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.unsafes.extend(signature.unsafety.map(|token| token.span.start().line));
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.unsafes.extend(item.unsafety.map(|token| token.span.start().line));
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.unsafes.extend(item.unsafety.map(|token| token.span.start().line));
        visit::visit_item_foreign_mod(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::planted;
    use super::*;

    fn findings(folder: &str, files: &[(&str, &str)]) -> Vec<String> {
        let target = planted::in_folder(folder, files);
        find(&target, &Names::of(&target)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_impl_in_a_childs_file_is_found_and_one_beside_its_type_is_not() {
        let found = findings(
            "crate",
            &[
                ("src/lib.rs", "mod a; pub struct P { x: u8 } impl P {} pub trait T {}"),
                ("src/a.rs", "use super::P;\nimpl P {}\nimpl super::T for P {}\nstruct A; impl A {}"),
            ],
        );
        assert_eq!(found, ["crate/src/a.rs:2: impl away from its type: `P` is defined in crate/src/lib.rs"]);
    }

    #[test]
    fn a_batch_receive_is_found_in_a_role_and_allowed_in_the_chassis() {
        let call = "fn f() { socket.try_read(|s| s.receive(&mut burst, 32)); }";
        let in_select = "fn f() { select! { _ = socket.read_with(|s| s.receive(&mut burst, 32)) => {} } }";
        let root = "mod worker;";
        for text in [call, in_select, "fn f() { Receiver::receive(&s); }", "use libc::recvmmsg;"] {
            let files = [("src/lib.rs", root), ("src/worker.rs", text)];
            assert_eq!(findings("proxy-ingress", &files).len(), 1, "{text}");
            assert_eq!(findings("oncecast", &files).len(), 0);
        }
        let chassis =
            [("src/lib.rs", root), ("src/worker/mod.rs", "mod intake;"), ("src/worker/intake.rs", call)];
        assert_eq!(findings("service", &chassis), [""; 0]);
        let own = [("src/lib.rs", "fn f() { self.receive(); self.receive(worker); }")];
        assert_eq!(findings("proxy-ingress", &own), [""; 0]);
    }

    #[test]
    fn unsafe_code_is_found_in_every_form_and_allowed_in_its_crates() {
        let forms = [
            "fn f() { unsafe { g() } }",
            "unsafe fn f() {}",
            "unsafe impl Send for X {}",
            "fn f() { m!(unsafe { g() }); }",
        ];
        for text in forms {
            assert_eq!(findings("frame", &[("src/lib.rs", text)]).len(), 1, "{text}");
            assert_eq!(findings("huge-pages", &[("src/lib.rs", text)]).len(), 0);
        }
    }
}
