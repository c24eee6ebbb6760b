//! Routes: which paths and methods are served, by matchit, the router of axum.
//!
//! Each method has a router of its own, so that the paths of one method don't hide those of
//! another. `/a/*` stands for `/a/` and all paths below it; `{id}` stands for one segment.

use hyper::Method;
use matchit::Router;
use percent_encoding::percent_decode_str;

/// The methods of routes.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
/// The end of a path that stands for all paths below it.
const BELOW: &str = "/*";
/// The same in the syntax of the router. Routes don't pass it on: the path is in the message.
const BELOW_PARAMETER: &str = "{*below}";

/// A key of `routes`: a method and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteKey {
    pub(super) method: Method,
    pub(super) path: String,
    /// The names in braces, in the order of the path.
    pub(super) params: Vec<String>,
}

/// The routers of a config. A route is a number.
pub(super) struct Routes(Vec<(Method, Router<usize>)>);

/// The route of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) route: usize,
    /// Names and decoded values of the path's parameters.
    pub(super) params: Vec<(String, String)>,
}

/// Why no route serves a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// No route has the path.
    Path,
    /// Routes with the path have these methods.
    Method(Vec<Method>),
    /// A parameter of the path is not UTF-8.
    Parameter(String),
}

impl RouteKey {
    /// Parses a key such as `/orders` or `PUT /items/{id}`.
    ///
    /// # Errors
    /// The text of the problem.
    pub(super) fn parse(key: &str) -> Result<Self, String> {
        let (method, path) = key.split_once(' ').unwrap_or(("POST", key));
        if !METHODS.contains(&method) {
            return Err(format!("the method is one of {}", METHODS.join(", ")));
        }
        check_path(path)?;
        let method = method.parse().expect("the method is one of the list");
        let params = parameters(path)?;
        let path = path.to_owned();
        Ok(Self {
            method,
            path,
            params,
        })
    }
}

impl Routes {
    /// # Errors
    /// The number of the first route that the router refuses, and the reason.
    pub(super) fn new<'k>(
        keys: impl IntoIterator<Item = &'k RouteKey> + Clone,
    ) -> Result<Self, (usize, String)> {
        let mut routes = Self(Vec::new());
        for (number, key) in keys.clone().into_iter().enumerate() {
            let (folder, pattern) = match key.path.strip_suffix('*') {
                Some(folder) if key.path.ends_with(BELOW) => {
                    (Some(folder), format!("{folder}{BELOW_PARAMETER}"))
                }
                _ => (None, key.path.clone()),
            };
            let router = routes.router(&key.method);
            let refused = |error: matchit::InsertError| (number, text_of(&error));
            router.insert(pattern, number).map_err(refused)?;
            let is_own = |other: &RouteKey| {
                other.method == key.method && folder.is_some_and(|it| it == other.path)
            };
            if let Some(folder) = folder
                && !keys.clone().into_iter().any(is_own)
            {
                router.insert(folder, number).map_err(refused)?;
            }
        }
        Ok(routes)
    }

    fn router(&mut self, method: &Method) -> &mut Router<usize> {
        let known = self.0.iter().position(|(known, _)| known == method);
        let at = known.unwrap_or_else(|| {
            self.0.push((method.clone(), Router::new()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// The route of a request.
    ///
    /// # Errors
    /// No route has this path, or none of them has this method, or a parameter is malformed.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<Found, NoRoute> {
        let mut routers = self.0.iter().filter(|(known, _)| known == method);
        let Some(found) = routers.find_map(|(_, router)| router.at(path).ok()) else {
            let methods = self.methods(path);
            return Err(match methods.is_empty() {
                true => NoRoute::Path,
                false => NoRoute::Method(methods),
            });
        };
        let mut params = Vec::with_capacity(found.params.len());
        for (name, value) in found.params.iter() {
            let decoded = percent_decode_str(value).decode_utf8();
            let decoded = decoded.map_err(|_| NoRoute::Parameter(name.to_owned()))?;
            params.push((name.to_owned(), decoded.into_owned()));
        }
        let route = *found.value;
        Ok(Found { route, params })
    }

    /// The methods of the routes with a path.
    pub(super) fn methods(&self, path: &str) -> Vec<Method> {
        let routers = self.0.iter().filter(|(_, router)| router.at(path).is_ok());
        routers.map(|(method, _)| method.clone()).collect()
    }
}

/// The names in braces.
///
/// # Errors
/// The text of the problem.
fn parameters(path: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for segment in path.split('/') {
        let inner = segment
            .strip_prefix('{')
            .and_then(|it| it.strip_suffix('}'));
        let Some(name) = inner else {
            if segment.contains(['{', '}']) {
                let text = "a parameter is a whole segment of the path: /orders/{id}";
                return Err(text.to_owned());
            }
            continue;
        };
        check_parameter(name)?;
        if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(format!("it has the parameter {name} twice"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// # Errors
/// The text can't be the name of a parameter, which becomes a part of a header's name.
pub(super) fn check_parameter(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match !name.is_empty() && name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(format!(
            "the parameter {name:?} has other characters than letters, digits, _ and -"
        )),
    }
}

/// # Errors
/// The text is not a path.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    match path.starts_with('/') && path.bytes().all(is_plain) {
        true => Ok(()),
        false => Err("a path starts with /, without query, fragment or spaces".to_owned()),
    }
}

fn text_of(error: &matchit::InsertError) -> String {
    match error {
        matchit::InsertError::Conflict { with } => {
            let with = with.replace(BELOW_PARAMETER, "*");
            format!("it has the same paths as {with}: a parameter and * can't share a place")
        }
        other => format!("it is not a path: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(keys: &[&str]) -> Vec<RouteKey> {
        let keys = keys.iter().map(|key| RouteKey::parse(key).unwrap());
        keys.collect()
    }

    fn routes(all: &[&str]) -> Result<Routes, (usize, String)> {
        Routes::new(&keys(all))
    }

    #[test]
    fn the_most_specific_route_with_the_path_and_the_method_is_found() {
        let keys = [
            "/a",
            "GET /a",
            "/a/*",
            "PUT /a/b/*",
            "/a/b/c",
            "/",
            "GET /o/{id}",
            "GET /o/new",
        ];
        let routes = routes(&keys).unwrap();
        for (method, path, expected) in [
            (Method::POST, "/a", "/a"),
            (Method::GET, "/a", "GET /a"),
            (Method::POST, "/a/b/c", "/a/b/c"),
            (Method::PUT, "/a/b/c", "PUT /a/b/*"),
            (Method::POST, "/a/b/d", "/a/*"),
            (Method::POST, "/a/", "/a/*"),
            (Method::POST, "/", "/"),
            (Method::GET, "/o/7", "GET /o/{id}"),
            (Method::GET, "/o/new", "GET /o/new"),
        ] {
            let found = routes.find(&method, path).map(|found| keys[found.route]);
            assert_eq!(found, Ok(expected), "{method} {path}");
        }
        for path in ["/b", "/a%62", "/o/", "/o/7/8"] {
            assert_eq!(routes.find(&Method::POST, path), Err(NoRoute::Path));
        }
        let allowed = NoRoute::Method(vec![Method::POST, Method::PUT]);
        assert_eq!(routes.find(&Method::DELETE, "/a/b/c"), Err(allowed));
    }

    #[test]
    fn an_own_route_of_a_folder_goes_before_the_star() {
        let keys = ["/a/*", "/a/"];
        let routes = routes(&keys).unwrap();
        let found = |path| routes.find(&Method::POST, path).unwrap().route;
        assert_eq!((found("/a/"), found("/a/b")), (1, 0));
    }

    #[test]
    fn a_parameter_is_decoded() {
        let routes = routes(&["GET /o/{Id}/items/{item_no}"]).unwrap();
        let found = |path| routes.find(&Method::GET, path).map(|found| found.params);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![pair("Id", "a/b ü"), pair("item_no", "+")];
        assert_eq!(found("/o/a%2Fb%20%C3%BC/items/+"), Ok(expected));
        let malformed = Err(NoRoute::Parameter("Id".to_owned()));
        assert_eq!(found("/o/%ff/items/1"), malformed);
    }

    #[test]
    fn a_key_that_is_no_route_is_refused() {
        for key in [
            "a", "", "HEAD /a", "post /a", "POST  /a", "/a?b", "GET", "/a b", "/{a", "/x{a}",
            "/{}", "/{*a}", "/{a}/{A}", "/{a.b}",
        ] {
            assert!(RouteKey::parse(key).is_err(), "{key}");
        }
        for conflict in [["/a/{id}", "/a/{order}"], ["/a/{id}", "/a/*"]] {
            let (number, text) = routes(&conflict).err().unwrap();
            assert_eq!(number, 1);
            assert!(text.contains("the same paths as /a/{id}"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_path_made_of_a_template_has_its_values(values in prop::collection::vec("[^/]{1,6}", 2)) {
            let routes = routes(&["GET /{a}/x/{b}", "GET /y/*"]).unwrap();
            let encode = |text: &str| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                    .to_string()
            };
            let path = format!("/{}/x/{}", encode(&values[0]), encode(&values[1]));
            prop_assume!(values[0] != "y");
            let found = routes.find(&Method::GET, &path).unwrap();
            let found: Vec<String> = found.params.into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(found, values);
        }
    }
}
