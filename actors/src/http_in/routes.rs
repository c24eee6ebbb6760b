//! Routes: which paths and methods are served, and the output of each.

use std::collections::BTreeMap;

use hyper::Method;

/// The methods of routes.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
/// The end of a path that stands for all paths below it.
const BELOW: &str = "/*";

/// The routes of a config, the most specific paths first.
#[derive(Debug)]
pub(super) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    method: Method,
    path: String,
    /// The number of the output.
    output: usize,
}

/// Why no route serves a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// No route has the path.
    Path,
    /// Routes with the path have these methods.
    Method(String),
}

impl Routes {
    /// The one route of a config without routes.
    pub(super) fn single(path: &str) -> Self {
        Self(vec![Route {
            method: Method::POST,
            path: path.to_owned(),
            output: 0,
        }])
    }

    /// # Errors
    /// The text of the first key that is no route, and the reason.
    pub(super) fn new(
        routes: &BTreeMap<String, String>,
        outputs: &[&str],
    ) -> Result<Self, (String, String)> {
        let mut all = Vec::new();
        for (key, output) in routes {
            let (method, path) = parse(key).map_err(|text| (key.clone(), text))?;
            let output = outputs.iter().position(|name| name == output);
            all.push(Route {
                method,
                path: path.to_owned(),
                output: output.expect("every output of a route is in the list"),
            });
        }
        all.sort_by_key(|route| (route.path.ends_with(BELOW), usize::MAX - route.path.len()));
        Ok(Self(all))
    }

    /// The number of the output for a request.
    ///
    /// # Errors
    /// No route has this path, or none of them has this method.
    pub(super) fn find(&self, method: &Method, path: &str) -> Result<usize, NoRoute> {
        let mut methods: Vec<&str> = Vec::new();
        for route in self.0.iter().filter(|route| route.has(path)) {
            if route.method == method {
                return Ok(route.output);
            }
            methods.push(route.method.as_str());
        }
        methods.sort_unstable();
        methods.dedup();
        match methods.is_empty() {
            true => Err(NoRoute::Path),
            false => Err(NoRoute::Method(methods.join(", "))),
        }
    }
}

impl Route {
    fn has(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(folder) if self.path.ends_with(BELOW) => path.starts_with(folder),
            _ => path == self.path,
        }
    }
}

/// Parses a key such as `/orders` or `PUT /items/*`.
fn parse(key: &str) -> Result<(Method, &str), String> {
    let (method, path) = key.split_once(' ').unwrap_or(("POST", key));
    if !METHODS.contains(&method) {
        return Err(format!("the method is one of {}", METHODS.join(", ")));
    }
    check_path(path)?;
    let method = method.parse().expect("the method is one of the list");
    Ok((method, path))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(keys: &[&str]) -> Result<Routes, (String, String)> {
        let routes = keys
            .iter()
            .map(|key| ((*key).to_owned(), (*key).to_owned()));
        Routes::new(&routes.collect(), keys)
    }

    #[test]
    fn the_most_specific_route_with_the_path_and_the_method_is_found() {
        let keys = ["/a", "GET /a", "/a/*", "PUT /a/b/*", "/a/b/c", "/"];
        let routes = routes(&keys).unwrap();
        for (method, path, expected) in [
            (Method::POST, "/a", "/a"),
            (Method::GET, "/a", "GET /a"),
            (Method::POST, "/a/b/c", "/a/b/c"),
            (Method::PUT, "/a/b/c", "PUT /a/b/*"),
            (Method::POST, "/a/b/d", "/a/*"),
            (Method::POST, "/a/", "/a/*"),
            (Method::POST, "/", "/"),
        ] {
            let found = routes.find(&method, path).map(|output| keys[output]);
            assert_eq!(found, Ok(expected), "{method} {path}");
        }
        assert_eq!(routes.find(&Method::POST, "/b"), Err(NoRoute::Path));
        assert_eq!(routes.find(&Method::POST, "/a%62"), Err(NoRoute::Path));
        let allowed = NoRoute::Method("POST, PUT".to_owned());
        assert_eq!(routes.find(&Method::DELETE, "/a/b/c"), Err(allowed));
    }

    #[test]
    fn a_key_that_is_no_route_is_refused() {
        for key in [
            "a", "", "HEAD /a", "post /a", "POST  /a", "/a?b", "GET", "/a b",
        ] {
            assert_eq!(routes(&[key]).unwrap_err().0, key);
        }
    }
}
