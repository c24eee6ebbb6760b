//! The parts that `#[service]` and `#[entity]` have in common: an `impl` block with handlers.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Error, Expr, ExprLit, ImplItemFn, ItemImpl, Lit, Meta, Result, Type};

use crate::attributes::{Description, InputArguments, Interval};
use crate::handler::Handler;
use crate::names::type_name;
use crate::parameters::{Parameter, parameters, write_lifetimes};

/// # Errors
/// The block has type parameters, or implements a trait.
pub(crate) fn check_block(block: &ItemImpl, attribute: &str) -> Result<()> {
    if let Some(parameter) = block.generics.params.first() {
        let text = match attribute {
            "service" => "a service type",
            _ => "an entity type",
        };
        return Err(Error::new_spanned(
            parameter,
            format!(
                "{text} has no type parameters and no lifetimes: a manifest could not name them"
            ),
        ));
    }
    match &block.trait_ {
        Some((path, _)) => Err(Error::new_spanned(
            path,
            format!("`#[{attribute}]` belongs on an `impl` block without a trait"),
        )),
        None => Ok(()),
    }
}

/// Returns the name of a service type: the argument, or the type's name with dashes.
pub(crate) fn name_of(description: &Description, ty: &Type, attribute: &str) -> Result<String> {
    match (&description.name, ty) {
        (Some(name), _) => Ok(name.clone()),
        (None, Type::Path(path)) if path.path.segments.last().is_some() => {
            let segment = path.path.segments.last();
            Ok(segment.map(|it| type_name(&it.ident)).unwrap_or_default())
        }
        _ => Err(Error::new_spanned(
            ty,
            format!("write a name: `#[{attribute}(name = \"…\")]`"),
        )),
    }
}

/// Takes the attribute of a handler away and returns the handler. A handler of an
/// entity may have a parameter with the config.
pub(crate) fn handler(method: &mut ImplItemFn, of_entity: bool) -> Result<Option<Handler>> {
    let is_handler = |attribute: &Attribute| {
        ["input", "tick", "reminder"]
            .iter()
            .any(|it| attribute.path().is_ident(it))
    };
    let Some(index) = method.attrs.iter().position(is_handler) else {
        return Ok(None);
    };
    let attribute = method.attrs.remove(index);
    if let Some(second) = method.attrs.iter().find(|it| is_handler(it)) {
        return Err(Error::new_spanned(second, "a method is one handler"));
    }
    let name = &method.sig.ident;
    let function = match method.sig.receiver() {
        Some(receiver) if !matches!(receiver.kind, syn::ReceiverKind::Reference(..)) => {
            return Err(Error::new_spanned(receiver, "write `&mut self`"));
        }
        Some(_) => quote!(self.#name),
        None => quote!(Self::#name),
    };
    let mut handler = match attribute.path().is_ident("tick") {
        false => {
            let arguments = InputArguments::parse(&attribute)?;
            Handler::input(&method.sig, arguments, None, function)?
        }
        true => Handler::tick(&method.sig, Interval::parse(&attribute)?, function)?,
    };
    handler.is_of_entity = of_entity;
    handler.is_reminder = attribute.path().is_ident("reminder");
    if handler.is_reminder && !of_entity {
        return Err(Error::new_spanned(
            attribute,
            "reminders belong to an entity: write `#[entity(key = \"…\")]` on the block, or \
             `#[input]` here",
        ));
    }
    write_lifetimes(&mut method.sig);
    for parameter in &handler.parameters {
        if let Parameter::Config(ty) = parameter
            && !of_entity
        {
            return Err(Error::new_spanned(
                ty,
                "a message is taken by value, and the config is given to `start`: keep there \
                 what the handlers need of it",
            ));
        }
    }
    Ok(Some(handler))
}

/// A method with the parameters of a handler is one whose attribute was forgotten.
pub(crate) fn forgotten(method: &ImplItemFn) -> Result<()> {
    let Ok(parameters) = parameters(&method.sig) else {
        return Ok(());
    };
    let is_handler = parameters
        .iter()
        .any(|it| matches!(it, Parameter::Out(_) | Parameter::Ask(..)));
    match is_handler && matches!(method.vis, syn::Visibility::Inherited) {
        true => {
            let text = "this method has the parameters of a handler: mark it with `#[input]` or \
                        `#[tick(\"10s\")]`, or make it a function outside of this block";
            Err(Error::new_spanned(&method.sig.ident, text))
        }
        false => Ok(()),
    }
}

/// Returns the doc comment of an item, for the type that is made of it.
pub(crate) fn documentation(attrs: &[Attribute]) -> TokenStream {
    let docs = docs(attrs);
    match docs.is_empty() {
        true => quote!(#[allow(missing_docs)]),
        false => quote!(#(#[doc = #docs])*),
    }
}

/// Returns the lines of the doc comment.
fn docs(attrs: &[Attribute]) -> Vec<String> {
    let lines = attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.collect()
}

/// Returns the summary: the argument, or the first paragraph of the doc comment.
pub(crate) fn summary(arguments: &Description, attrs: &[Attribute]) -> String {
    if let Some(summary) = &arguments.summary {
        return summary.value();
    }
    let lines = docs(attrs);
    let lines = lines.iter().map(|line| line.trim());
    let first: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    first.join(" ").trim_end_matches('.').to_owned()
}
