//! Rules over all inputs and ticks of a block.

use syn::{Error, ItemImpl, Result};

use crate::handler::{Event, Handler};

/// Each input and tick has a name of its own.
pub(crate) fn check_names(block: &ItemImpl, handlers: &[Handler]) -> Result<()> {
    for (index, handler) in handlers.iter().enumerate() {
        let name = handler.name();
        if handlers[..index].iter().any(|other| other.name() == name) {
            let text = format!("two handlers are named `{name}`");
            return Err(Error::new_spanned(&block.self_ty, text));
        }
    }
    Ok(())
}

/// An input goes before others only if there is another one.
pub(crate) fn check_first(handlers: &[Handler]) -> Result<()> {
    let inputs = handlers.iter().filter_map(|handler| match &handler.event {
        Event::Input { first, .. } => Some(first.as_ref()),
        Event::Tick { .. } => None,
    });
    match inputs.collect::<Option<Vec<_>>>().as_deref() {
        Some([.., last]) => Err(Error::new_spanned(
            last,
            "every input is `first`: leave it out at those that may wait",
        )),
        Some([]) | None => Ok(()),
    }
}

impl Handler {
    fn name(&self) -> &str {
        match &self.event {
            Event::Input { name, .. } | Event::Tick { name, .. } => name,
        }
    }
}
