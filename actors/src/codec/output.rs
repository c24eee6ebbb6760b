//! JSON text that grows up to a bound.

/// Checks the size of a result.
///
/// # Errors
/// The output is too large.
pub(super) fn check(bytes: usize, bytes_max: usize) -> Result<(), String> {
    match bytes <= bytes_max {
        true => Ok(()),
        false => Err(format!("the result has more than {bytes_max} bytes")),
    }
}

/// JSON text under construction.
pub(super) struct Output {
    text: String,
    bytes_max: usize,
}

impl Output {
    pub(super) fn new(bytes_max: usize) -> Self {
        let text = String::new();
        Self { text, bytes_max }
    }

    /// Adds JSON.
    ///
    /// # Errors
    /// The text becomes too large.
    pub(super) fn raw(&mut self, json: &str) -> Result<(), String> {
        check(self.text.len() + json.len(), self.bytes_max)?;
        self.text.push_str(json);
        Ok(())
    }

    /// Adds a JSON string with this value.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub(super) fn string(&mut self, value: &str) -> Result<(), String> {
        check(self.text.len() + value.len(), self.bytes_max)?;
        let json = serde_json::to_string(value).expect("a text can be written");
        self.raw(&json)
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}
