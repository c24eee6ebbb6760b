//! The source files of each room.

use std::fs;
use std::path::{Path, PathBuf};

use brickwork_tests::binary::workspace;

/// Folders with code, each with prose and rules of its own.
pub(crate) const ROOMS: [&str; 5] = ["runtime", "bridges", "actors", "examples", "tests"];

/// Folders that hold build results or installed packages.
const SKIPPED: [&str; 3] = ["target", "node_modules", "venv"];

/// A source file with its path from the root of the workspace.
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Returns the Rust, TOML and shell files below a folder, sorted by path.
pub(crate) fn below(folder: &str) -> Vec<SourceFile> {
    let root = workspace();
    let mut found = Vec::new();
    collect(&root.join(folder), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| SourceFile {
            text: fs::read_to_string(&path).expect("a source file is UTF-8"),
            path: path
                .strip_prefix(root)
                .expect("the file is in the workspace")
                .display()
                .to_string(),
        })
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("an entry can be read").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("a file name is UTF-8");
        if path.is_dir() {
            if !SKIPPED.contains(&name) {
                collect(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".toml") || is_shell(&path) {
            found.push(path);
        }
    }
}

/// Whether the file is a shell script: by its suffix, or by its first line.
fn is_shell(path: &Path) -> bool {
    let known = path.extension().map(|suffix| suffix == "sh");
    known.unwrap_or_else(|| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!/")))
}
