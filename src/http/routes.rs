//! A router with a list of its routes, by which tests compare the interface description with it.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, get, post};

use super::state::App;

/// A method and a path with `{parameters}`.
pub type Route = (Method, String);

/// Routes, and the list of them.
#[must_use = "routes serve nothing until they become a router"]
#[derive(Default)]
pub struct Routes {
    router: Router<App>,
    list: Vec<Route>,
}

impl Routes {
    /// Adds a `GET`, which answers `HEAD` too.
    pub fn get<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::GET, path, get(handler))
    }

    /// Adds a `POST`.
    pub fn post<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::POST, path, post(handler))
    }

    fn add(mut self, method: Method, path: &str, handler: MethodRouter<App>) -> Self {
        self.list.push((method, path.to_owned()));
        Self { router: self.router.route(path, handler), ..self }
    }

    /// Adds routes below a path.
    pub fn nest(mut self, path: &str, routes: Self) -> Self {
        let below =
            |(method, rest): Route| (method, format!("{path}{}", if rest == "/" { "" } else { &rest }));
        self.list.extend(routes.list.into_iter().map(below));
        Self { router: self.router.nest(path, routes.router), ..self }
    }

    /// Adds routes beside these.
    pub fn merge(mut self, routes: Self) -> Self {
        self.list.extend(routes.list);
        Self { router: self.router.merge(routes.router), ..self }
    }

    /// Changes how the routes so far are served, for instance by a layer.
    pub fn map(self, change: impl FnOnce(Router<App>) -> Router<App>) -> Self {
        Self { router: change(self.router), ..self }
    }

    /// The list of routes.
    pub fn list(&self) -> &[Route] {
        &self.list
    }

    /// The router.
    pub fn into_router(self) -> Router<App> {
        self.router
    }
}
