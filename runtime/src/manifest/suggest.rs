//! Did you mean: the nearest of the names that there are.

/// The name that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// Comparing longer ones takes long and helps nobody.
    const BYTES_MAX: usize = 256;
    if wrong.len() > BYTES_MAX {
        return None;
    }
    names
        .into_iter()
        .filter(|name| *name != wrong && name.len() <= BYTES_MAX)
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= wrong.len().max(name.len()).div_ceil(3))
        // Nothing in common but the length.
        .filter(|(distance, name)| *distance < name.len())
        .min()
        .map(|(_, name)| name)
}

/// `did you mean ...?`, or what there is.
pub(crate) fn help<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str> + Clone,
    there_are: &str,
) -> Option<String> {
    if let Some(name) = nearest(wrong, names.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let names = list(names);
    (!names.is_empty()).then(|| format!("{there_are}: {names}"))
}

/// Names in quotes, as a list.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// What the manifest says, in quotes, fit to be shown.
pub(crate) fn quote(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{}`", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let keys = ["mailbox", "instances", "use"];
        assert_eq!(nearest("instance", keys), Some("instances"));
        assert_eq!(nearest("uses", keys), Some("use"));
        assert_eq!(nearest("colour", keys), None);
    }
}
