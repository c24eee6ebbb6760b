//! `share`: the function that makes the shared value of a service.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, ImplItem, ImplItemFn, ItemImpl, Result, ReturnType, Type};

use crate::parameters::{Parameter, parameters};

/// The call of `share` before an instance starts.
pub(crate) struct Share {
    /// Statements with `config` and `cx` in scope.
    pub(crate) statements: TokenStream,
    pub(crate) config: Option<Type>,
}

/// Returns the call of `share`, if any of `parameters` takes the shared value. Without such a
/// parameter, `share` is a function like any other.
///
/// # Errors
/// There is no `share`, it is no function for this, or a handler takes two shared values.
pub(crate) fn share(block: &ItemImpl, taken: &[&Parameter]) -> Result<Option<Share>> {
    let values: Vec<_> = taken
        .iter()
        .filter_map(|parameter| match parameter {
            Parameter::Shared(ty, value) => Some((ty, value)),
            _ => None,
        })
        .collect();
    let Some((first, _)) = values.first() else {
        return Ok(None);
    };
    let method = block.items.iter().find_map(|item| match item {
        ImplItem::Fn(method) if method.sig.ident == "share" => Some(method),
        _ => None,
    });
    let Some(ImplItemFn { sig, .. }) = method else {
        let text = "there is no shared value: add a function `share(config: &Config) -> Result<T>` \
                    to the block, which makes it";
        return Err(Error::new_spanned(first, text));
    };
    if let Some(receiver) = sig.receiver() {
        let text = "`share` makes the value before there is an instance: take `self` away";
        return Err(Error::new_spanned(receiver, text));
    }
    if let ReturnType::Default = sig.output {
        let text = "`share` returns the shared value: write `-> Result<T>`";
        return Err(Error::new_spanned(&sig.ident, text));
    }
    let config = match parameters(sig)?.as_slice() {
        [] => None,
        [Parameter::Config(ty)] => Some(ty.clone()),
        _ => {
            let text = "`share` takes the config as `&Config`, or nothing";
            return Err(Error::new_spanned(&sig.inputs, text));
        }
    };
    let argument = config.as_ref().map(|_| quote!(config));
    let wait = sig.asyncness.map(|_| quote!(.await));
    // A value of another type is an error at the type of the parameter.
    let checks = values.iter().map(|(_, value)| {
        let span = value.span();
        quote_spanned!(span=> ::brickwork::Shared::<#value>::check(&shared);)
    });
    let statements = quote! {
        let shared = cx
            .shared(async || ::brickwork::__macros::HandlerReturn::into_result(
                Self::share(#argument)#wait
            ))
            .await?;
        #(#checks)*
        cx.keep_shared(shared);
    };
    Ok(Some(Share { statements, config }))
}

/// One handler takes the shared value once.
pub(crate) fn check_once(parameters: &[Parameter]) -> Result<()> {
    let mut taken = parameters.iter().filter_map(|parameter| match parameter {
        Parameter::Shared(ty, _) => Some(ty),
        _ => None,
    });
    match taken.nth(1) {
        Some(second) => {
            let text = "a service has one shared value: put both into a struct";
            Err(Error::new_spanned(second, text))
        }
        None => Ok(()),
    }
}
