/* The running proxy: listeners, workers, the services they share, signals, the watched htpasswd. */
#ifndef ADIT_SERVER_SERVER_H
#define ADIT_SERVER_SERVER_H

#include "adit/conf/conf.h"

/* How to load the configuration again: the file and the options of the command line. Lives as long as the server. */
struct server_source {
	const char *path; /* NULL: options only */
	const struct conf_option *options;
	size_t option_count;
};

/* Serves until it was told to stop (TERM, INT); takes over the reference to conf. Exit status: 0 after an orderly stop,
 * 1 when it could not start (said on stderr; nothing was left half started). Call once, from the main thread. */
int server_run(struct conf *conf, const struct server_source *source);

#endif
