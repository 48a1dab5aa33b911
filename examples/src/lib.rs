//! Small programs that embed one Portcullis layer each
