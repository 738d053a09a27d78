//! Every setting, its default, its documentation.
