//! The parameters of handlers: which part of the runtime each of them stands for.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::{
    Error, FnArg, GenericArgument, Pat, PathArguments, PathSegment, Result, Signature, Type,
    TypePath, TypeReference,
};

use crate::names::port_name;

/// The ways that a parameter can be written.
pub(crate) const FORMS: &str =
    "`Out<T>`, `Ask<Q, R>`, `Meta`, `Key`, `Shared<T>`, `&Context`, `&mut Context` or `&mut Tx`";

/// A parameter after `self`.
pub(crate) enum Parameter {
    /// The message, or the list of messages of a batch.
    Message(Type),
    Out(Port),
    Ask(Port, Box<Type>),
    Meta(Type),
    Key(Type),
    /// The shared value of the service, with its type and the type of the value.
    Shared(Type, Box<Type>),
    Context,
    ContextMut(Type),
    Tx(Type),
    /// The config of a function.
    Config(Type),
    /// An output of a source.
    Feed(Port),
    Position(Type),
    SourceContext,
}

impl Parameter {
    /// Returns tokens to point at.
    pub(crate) fn tokens(&self) -> TokenStream {
        match self {
            Self::Message(ty)
            | Self::Meta(ty)
            | Self::Key(ty)
            | Self::Shared(ty, _)
            | Self::ContextMut(ty)
            | Self::Tx(ty)
            | Self::Config(ty)
            | Self::Position(ty) => quote!(#ty),
            Self::Out(port) | Self::Ask(port, _) | Self::Feed(port) => {
                let ident = &port.ident;
                quote!(#ident)
            }
            Self::Context | Self::SourceContext => TokenStream::new(),
        }
    }
}

/// An output or a request.
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) ident: Ident,
    /// The type of its messages.
    pub(crate) message: Type,
}

/// Returns the parameters of a method or function, without `self`.
///
/// # Errors
/// A parameter that stands for nothing, or that is incomplete.
pub(crate) fn parameters(signature: &Signature) -> Result<Vec<Parameter>> {
    if let Some(parameter) = signature.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a handler has no type parameters and no lifetimes",
        ));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(Error::new_spanned(
            variadic,
            "a handler has a fixed number of parameters",
        ));
    }
    let inputs = signature.inputs.iter();
    let typed = inputs.filter_map(|argument| match argument {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    typed
        .map(|typed| parameter(&typed.pat, &typed.ty))
        .collect()
}

fn parameter(pat: &Pat, ty: &Type) -> Result<Parameter> {
    if let Type::Reference(reference) = ty {
        return reference_parameter(reference, ty);
    }
    let Some(segment) = last_segment(ty) else {
        return Ok(Parameter::Message(ty.clone()));
    };
    match segment.ident.to_string().as_str() {
        "Out" => {
            let [message] = type_arguments(segment, ty, "Out<T>")?;
            Ok(Parameter::Out(port(pat, message)?))
        }
        "Ask" => {
            let [question, answer] = type_arguments(segment, ty, "Ask<Question, Answer>")?;
            Ok(Parameter::Ask(port(pat, question)?, Box::new(answer)))
        }
        "Meta" => Ok(Parameter::Meta(ty.clone())),
        "Key" => Ok(Parameter::Key(ty.clone())),
        "Shared" => {
            let [value] = type_arguments(segment, ty, "Shared<T>")?;
            Ok(Parameter::Shared(ty.clone(), Box::new(value)))
        }
        "Feed" => {
            let [message] = type_arguments(segment, ty, "Feed<T>")?;
            Ok(Parameter::Feed(port(pat, message)?))
        }
        "Position" => Ok(Parameter::Position(ty.clone())),
        "SourceContext" => Err(Error::new_spanned(ty, "write `&SourceContext`")),
        "Context" | "Tx" | "Store" => {
            let name = &segment.ident;
            let form = if *name == "Context" {
                "&Context"
            } else {
                "&mut Tx"
            };
            Err(Error::new_spanned(ty, format!("write `{form}`")))
        }
        _ => Ok(Parameter::Message(ty.clone())),
    }
}

fn reference_parameter(reference: &TypeReference, ty: &Type) -> Result<Parameter> {
    let name = last_segment(&reference.elem).map(|segment| segment.ident.to_string());
    let is_mutable = reference.mutability.is_some();
    match (name.as_deref(), is_mutable) {
        (Some("Context"), false) => Ok(Parameter::Context),
        (Some("Context"), true) => Ok(Parameter::ContextMut(ty.clone())),
        (Some("Tx"), true) => Ok(Parameter::Tx(ty.clone())),
        (Some("Tx"), false) => Err(Error::new_spanned(ty, "write `&mut Tx`")),
        (Some("SourceContext"), _) => Ok(Parameter::SourceContext),
        (Some("Out" | "Ask" | "Meta" | "Key" | "Shared" | "Feed" | "Position"), _) => {
            Err(Error::new_spanned(ty, "take it by value, without `&`"))
        }
        (_, false) => Ok(Parameter::Config((*reference.elem).clone())),
        (_, true) => Err(Error::new_spanned(
            ty,
            format!("a message is taken by value; other parameters are {FORMS}"),
        )),
    }
}

fn port(pat: &Pat, message: Type) -> Result<Port> {
    match pat {
        Pat::Ident(pat) if !port_name(&pat.ident).is_empty() => Ok(Port {
            name: port_name(&pat.ident),
            ident: pat.ident.clone(),
            message,
        }),
        _ => Err(Error::new_spanned(
            pat,
            "the port is named after this parameter: write a name",
        )),
    }
}

/// Writes the lifetimes that a person may leave out: `Out<T>` is `Out<'_, T>`.
pub(crate) fn write_lifetimes(signature: &mut Signature) {
    for argument in &mut signature.inputs {
        let FnArg::Typed(typed) = argument else {
            continue;
        };
        let ty = match &mut *typed.ty {
            Type::Reference(reference) => &mut *reference.elem,
            ty => ty,
        };
        let Type::Path(path) = ty else { continue };
        let Some(segment) = path.path.segments.last_mut() else {
            continue;
        };
        if !["Out", "Ask", "Tx", "Feed", "Position"]
            .iter()
            .any(|name| segment.ident == name)
        {
            continue;
        }
        match &mut segment.arguments {
            PathArguments::None => {
                segment.arguments = PathArguments::AngleBracketed(syn::parse_quote!(<'_>));
            }
            PathArguments::AngleBracketed(arguments) => {
                let mut written = arguments.args.iter();
                if !written.any(|it| matches!(it, GenericArgument::Lifetime(_))) {
                    arguments.args.insert(0, syn::parse_quote!('_));
                }
            }
            PathArguments::Parenthesized(_) => {}
        }
    }
}

fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(TypePath {
            qself: None, path, ..
        }) => path.segments.last(),
        _ => None,
    }
}

/// Returns the type arguments of a segment.
fn type_arguments<const N: usize>(
    segment: &PathSegment,
    ty: &Type,
    form: &str,
) -> Result<[Type; N]> {
    let types: Vec<Type> = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    types
        .try_into()
        .map_err(|_| Error::new_spanned(ty, format!("write the types: `{form}`")))
}

/// Returns the name of the constant for a port.
pub(crate) fn constant_name(port: &str, ident: &Ident) -> Ident {
    Ident::new(&port.replace('-', "_").to_uppercase(), ident.span())
}

impl Port {
    pub(crate) fn output(&self) -> TokenStream {
        let (name, message) = (&self.name, &self.message);
        quote!(::brickwork::Output::<#message>::new(#name))
    }

    /// Returns the constant of an output.
    pub(crate) fn constant(&self) -> TokenStream {
        let (ident, message) = (constant_name(&self.name, &self.ident), &self.message);
        let output = self.output();
        quote!(pub const #ident: ::brickwork::Output<#message> = #output;)
    }

    /// Returns the constant of a request.
    pub(crate) fn request_constant(&self, answer: &Type) -> TokenStream {
        let (ident, message) = (constant_name(&self.name, &self.ident), &self.message);
        let request = self.request(answer);
        quote!(pub const #ident: ::brickwork::Request<#message, #answer> = #request;)
    }

    pub(crate) fn request(&self, answer: &Type) -> TokenStream {
        let (name, message) = (&self.name, &self.message);
        quote!(::brickwork::Request::<#message, #answer>::new(#name))
    }
}
