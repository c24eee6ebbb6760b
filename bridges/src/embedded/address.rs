//! URLs of the transport: `embedded:PATH`, where PATH is a folder.

use std::path::{Path, PathBuf};

const SCHEME: &str = "embedded:";

/// Returns the folder of a URL.
///
/// # Errors
/// The URL has no folder, or has a host as well.
pub(super) fn folder(url: &str) -> Result<PathBuf, String> {
    let path = url.strip_prefix(SCHEME).unwrap_or_default();
    if path.is_empty() {
        return Err("embedded: needs a folder: write embedded:data/queues".into());
    }
    if path.starts_with("//") {
        return Err(
            "embedded: takes a folder and no host: write embedded:data/queues, or embedded:/an/\
             absolute/folder"
                .into(),
        );
    }
    Ok(path.into())
}

/// Returns the URL of a folder.
pub(super) fn url(folder: &Path) -> String {
    format!("{SCHEME}{}", folder.display())
}

/// Joins the folder of a URL to the folder of the manifest.
pub(super) fn resolve(url: &str, base: &Path) -> String {
    match folder(url) {
        Ok(folder) => self::url(&base.join(folder)),
        // `folder` refuses it later.
        Err(_) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_relative_to_the_manifest() {
        let base = Path::new("/apps/shop");
        assert_eq!(
            resolve("embedded:data/queues", base),
            "embedded:/apps/shop/data/queues"
        );
        assert_eq!(resolve("embedded:/var/q", base), "embedded:/var/q");
    }

    #[test]
    fn a_url_without_a_folder_is_refused() {
        for url in ["embedded:", "embedded://host/queues"] {
            let why = folder(url).expect_err(url);
            assert!(why.contains("write embedded:data/queues"), "{why}");
            assert_eq!(resolve(url, Path::new("/apps")), url);
        }
    }
}
