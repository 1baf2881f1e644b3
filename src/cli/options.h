/* The command line of the subcommands that take a configuration: made from conf's table of options, so that what a
 * file can say can be said here, too. */
#ifndef ADIT_SRC_OPTIONS_H
#define ADIT_SRC_OPTIONS_H

#include "adit/conf/conf.h"

/* A switch of one subcommand alone. */
struct options_flag {
	const char *name; /* "--quiet"; NULL ends the list */
	const char *brief;
	bool *given;
};

struct options {
	const char *config; /* -c; NULL: none */
	struct conf_option *list; /* in the order they were given */
	size_t count;
	char **owned; /* keys cut out of --set */
	size_t owned_count;
	bool help;
};

/* argv[0] is the subcommand's name. False after a line on `errors`: exit 2. What is in *o points into argv, lives
 * as long as that, and serves every reload. Free it in both cases. */
bool options_parse(struct options *o, int argc, char **argv, const struct options_flag *flags,
	FILE *errors) ADIT_MUST_USE;
void options_fini(struct options *o);

/* "adit serve [OPTION...]", then what the options are. */
void options_help(const char *command, const char *purpose, const struct options_flag *flags, FILE *to);

/* conf_load with the file and the options of the command line. */
struct conf *options_load(const struct options *o, struct conf_errors *errors) ADIT_MUST_USE;

#endif
