//! The modules that a file uses.
//!
//! Reads every path that starts with `crate::`, `super::`, `self::`, or in a `use` with the
//! name of a child module. Names that a `mod.rs` or `lib.rs` re-exports count as the module that
//! they come from. Code behind `#[cfg(test)]` doesn't count: tests may reach everywhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::circles::Graph;
use crate::files::below;
use crate::lexer::{Kind, Token, tokens};

/// A module's path from the crate's root: `["host", "relay"]`; the root's is empty.
type Path = Vec<String>;

/// The modules of a crate and the paths that each of them names.
pub(crate) struct Crate {
    uses: BTreeMap<Path, BTreeSet<Path>>,
    /// Re-exported names of each module, with the path that they stand for.
    exports: BTreeMap<Path, BTreeMap<String, Path>>,
}

impl Crate {
    /// Reads the crate in `folder`, for example `runtime/src`.
    pub(crate) fn read(folder: &str) -> Self {
        let files: Vec<_> = below(folder)
            .into_iter()
            .filter(|file| file.is_rust())
            .collect();
        let modules: BTreeSet<Path> = files
            .iter()
            .map(|file| module_of(folder, &file.path))
            .collect();
        let mut read = Self {
            uses: modules
                .iter()
                .map(|module| (module.clone(), BTreeSet::new()))
                .collect(),
            exports: BTreeMap::new(),
        };
        for file in &files {
            let module = module_of(folder, &file.path);
            if !module.is_empty() && module.last().is_some_and(|name| name == "tests") {
                continue;
            }
            let tokens = without_tests(&tokens(&file.text));
            Reader {
                tokens: &tokens,
                module: &module,
                read: &mut read,
            }
            .run();
        }
        read
    }

    /// Returns the graph of the top-level modules. The root isn't part of it: it is the map.
    pub(crate) fn top_level(&self) -> Graph {
        self.graph(|module| module.first().cloned())
    }

    /// Returns the graph of the files directly in the folder of the module `parent`; deeper
    /// files count as the file or folder that holds them, and `mod.rs` as itself.
    pub(crate) fn files_of(&self, parent: &str) -> Graph {
        self.graph(|module| match module.as_slice() {
            [first] if first == parent => Some("mod".to_owned()),
            [first, second, ..] if first == parent => Some(second.clone()),
            _ => None,
        })
    }

    /// Returns the graph of all files of the crate, but the root.
    pub(crate) fn every_file(&self) -> Graph {
        self.graph(|module| (!module.is_empty()).then(|| module.join("/")))
    }

    fn graph(&self, node: impl Fn(&Path) -> Option<String>) -> Graph {
        let mut graph = Graph::new();
        for (module, paths) in &self.uses {
            let Some(from) = node(module) else { continue };
            let targets = graph.entry(from.clone()).or_default();
            for path in paths {
                if let Some(to) = node(&self.resolve(path.clone()))
                    && to != from
                {
                    targets.insert(to);
                }
            }
        }
        graph
    }

    /// Returns the module that a path leads to, through re-exports.
    fn resolve(&self, mut path: Path) -> Path {
        // A re-export of a re-export of itself would never end.
        for _ in 0..8 {
            let Some(longest) = (0..=path.len())
                .rev()
                .find(|end| self.uses.contains_key(&path[..*end]))
            else {
                break;
            };
            let module = path[..longest].to_vec();
            let Some(name) = path.get(longest) else {
                return module;
            };
            match self.exports.get(&module).and_then(|names| names.get(name)) {
                Some(target) if *target != path => {
                    let rest = path.split_off(longest + 1);
                    path = target.iter().cloned().chain(rest).collect();
                }
                _ => return module,
            }
        }
        path
    }
}

/// Returns the module of a file: `runtime/src/host/mod.rs` is `["host"]`.
fn module_of(folder: &str, path: &str) -> Path {
    let inside = path
        .strip_prefix(folder)
        .expect("the file is in the folder");
    let inside = inside.trim_start_matches('/').trim_end_matches(".rs");
    let mut parts: Path = inside.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str()))
    {
        parts.pop();
    }
    parts
}

/// Removes comments, and each item that `#[cfg(test)]` stands before.
fn without_tests<'a>(all: &[Token<'a>]) -> Vec<Token<'a>> {
    let code: Vec<Token<'a>> = all
        .iter()
        .copied()
        .filter(|token| token.kind != Kind::Comment)
        .collect();
    let mut kept = Vec::with_capacity(code.len());
    let mut at = 0;
    while at < code.len() {
        let ahead: String = code[at..].iter().take(7).map(|token| token.text).collect();
        if ahead == "#[cfg(test)]" {
            at = end_of_item(&code, at + 7);
        } else {
            kept.push(code[at]);
            at += 1;
        }
    }
    kept
}

/// Returns the index behind an item: behind its `;`, or behind its closing brace.
fn end_of_item(code: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0_i32;
    while at < code.len() {
        match code[at].text {
            "{" | "(" | "[" if code[at].kind == Kind::Sign => depth += 1,
            ")" | "]" if code[at].kind == Kind::Sign => depth -= 1,
            "}" if code[at].kind == Kind::Sign => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 && code[at].kind == Kind::Sign => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Reads the paths of one file.
struct Reader<'a> {
    tokens: &'a [Token<'a>],
    module: &'a Path,
    read: &'a mut Crate,
}

impl Reader<'_> {
    fn run(mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.text(at) == "use" && self.tokens[at].kind == Kind::Word {
                let public = at > 0 && ["pub", ")"].contains(&self.text(at - 1));
                at = self.path(at + 1, None, public);
            } else if ["crate", "super", "self"].contains(&self.text(at)) && self.is_path(at + 1) {
                at = self.path(at, None, false);
            } else {
                at += 1;
            }
        }
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn is_path(&self, at: usize) -> bool {
        self.text(at) == ":" && self.text(at + 1) == ":"
    }

    /// Reads a path, or a tree of paths in braces, from `at` on; returns the index behind it.
    fn path(&mut self, mut at: usize, before: Option<Path>, public: bool) -> usize {
        let mut path = before;
        loop {
            let word = self.text(at).to_owned();
            if word == "{" {
                return self.branches(at + 1, path, public);
            }
            path = Some(match (path, word.as_str()) {
                (None, "crate") => Path::new(),
                (None, "super") => self.parent(self.module),
                (None, "self") => self.module.clone(),
                (None, _) => self.first_word(&word),
                (Some(path), "super") => self.parent(&path),
                (Some(path), "self" | "*") => path,
                (Some(mut path), _) => {
                    path.push(word);
                    path
                }
            });
            at += 1;
            if !self.is_path(at) {
                break;
            }
            at += 2;
        }
        let path = path.expect("a path has a word");
        let alias = (self.text(at) == "as").then(|| self.text(at + 1).to_owned());
        self.keep(path, alias, public);
        at
    }

    /// Reads the branches of a tree behind its opening brace.
    fn branches(&mut self, mut at: usize, before: Option<Path>, public: bool) -> usize {
        while at < self.tokens.len() && self.text(at) != "}" {
            if self.text(at) == "," {
                at += 1;
            } else {
                let behind = self.path(at, before.clone(), public);
                at = behind.max(at + 1);
                while !["}", ","].contains(&self.text(at)) && at < self.tokens.len() {
                    at += 1;
                }
            }
        }
        at + 1
    }

    fn parent(&self, path: &Path) -> Path {
        path[..path.len().saturating_sub(1)].to_vec()
    }

    /// Returns the path of a child module of that name, or of another crate.
    fn first_word(&self, word: &str) -> Path {
        let mut child = self.module.clone();
        child.push(word.to_owned());
        if self.read.uses.contains_key(&child) {
            child
        } else {
            vec!["::".to_owned(), word.to_owned()]
        }
    }

    fn keep(&mut self, path: Path, alias: Option<String>, public: bool) {
        if path.first().is_some_and(|first| first == "::") {
            return;
        }
        if public && let Some(name) = alias.or_else(|| path.last().cloned()) {
            let names = self.read.exports.entry(self.module.clone()).or_default();
            names.insert(name, path.clone());
        }
        if let Some(uses) = self.read.uses.get_mut(self.module) {
            uses.insert(path);
        }
    }
}
