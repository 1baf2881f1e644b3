/* The subcommands of the program: each takes its own arguments (argv[0] is the subcommand's name) and returns the exit
 * status, 0 done, 1 failed, 2 wrong usage or configuration. */
#ifndef ADIT_CLI_CLI_PRIV_H
#define ADIT_CLI_CLI_PRIV_H

int check_main(int argc, char **argv);
int passwd_main(int argc, char **argv);
int serve_main(int argc, char **argv);
/* Versions of adit and of the libraries in use, on stdout. */
void version_print(void);

#endif
