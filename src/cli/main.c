/* adit: one binary, subcommands. */
#include "cli/cli_priv.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

static const struct command {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "serve", serve_main, "run the proxy" },
	{ "check", check_main, "check a configuration and what it names; print what is in force" },
	{ "passwd", passwd_main, "add, change or delete a user of an htpasswd file" },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_usage(FILE *to)
{
	fputs("Usage: adit COMMAND [OPTIONS]\n"
	      "A secure web proxy: TLS to the proxy, users from an htpasswd file, CONNECT tunnels,\n"
	      "every access on record.\n\n"
	      "Commands:\n", to);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].what);
	fputs("\nOptions:\n"
	      "  --help      this text; `adit COMMAND --help` tells more\n"
	      "  --version   version of adit and of the libraries in use\n\n"
	      "A start, with a certificate and a user at hand:\n"
	      "  adit passwd users.htpasswd alice\n"
	      "  adit serve --cert proxy.crt --key proxy.key --htpasswd users.htpasswd --audit-dir /var/log/adit\n", to);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_usage(stderr);
		return 2;
	}
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].main(argc - 1, argv + 1);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		print_usage(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		version_print();
		return 0;
	}
	fprintf(stderr, "adit: no command '%s'; see adit --help\n", argv[1]);
	return 2;
}
