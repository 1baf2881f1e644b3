/* adit serve */
#include "adit/server/server.h"
#include "cli/cli_priv.h"
#include "cli/options.h"

#include <stdio.h>

int serve_main(int argc, char **argv)
{
	struct conf_errors errors = { 0 };
	struct server_source source;
	struct options options;
	struct conf *conf = NULL;
	int status = 2;

	if (!options_parse(&options, argc, argv, NULL, stderr))
		goto out;
	if (options.help) {
		options_help("serve", "Runs the proxy in the foreground until TERM or INT. HUP reads the configuration again, "
		             "USR1 opens the audit files again.", NULL, stdout);
		status = 0;
		goto out;
	}
	conf = options_load(&options, &errors);
	if (!conf || !conf_complete(conf, &errors)) {
		conf_errors_print(&errors, stderr);
		conf_unref(conf);
		goto out;
	}
	source = (struct server_source){ options.config, options.list, options.count };
	status = server_run(conf, &source);
out:
	conf_errors_free(&errors);
	options_fini(&options);
	return status;
}
