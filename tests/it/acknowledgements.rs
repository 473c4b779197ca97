//! acknowledgements
