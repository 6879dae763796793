/* Which sources the library was compiled from, so that one of another version is not taken. */
const char *chexmix_source(void) { return SOURCE; }
