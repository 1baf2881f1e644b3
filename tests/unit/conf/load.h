/* For tests of the configuration: texts in, snapshots and messages out. */
#ifndef ADIT_TESTS_CONF_LOAD_H
#define ADIT_TESTS_CONF_LOAD_H

#include "conf/conf_priv.h"

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* The snapshot of a text; the test fails when there is none. */
struct conf *load_good(const char *text);
struct conf *load_options(const struct conf_option *options, size_t count);
/* All messages of a text or of options that must not load, each with its newline. free() it. */
char *load_bad(const char *text);
char *load_bad_options(const struct conf_option *options, size_t count);
/* conf_print's text. free() it. */
char *load_printed(const struct conf *conf);
/* A file of the source tree. free() it. */
char *load_file(const char *path);

#endif
