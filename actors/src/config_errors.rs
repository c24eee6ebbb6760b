//! The outcome of a config check.

use brickwork::ConfigError;

/// `Ok` if there are no errors.
pub(crate) fn result(errors: Vec<ConfigError>) -> Result<(), Vec<ConfigError>> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}
