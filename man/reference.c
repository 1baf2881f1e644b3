/* Prints adit.yaml(5) while the program is built: the page cannot differ from the table of options it is made from. */
#include "adit/conf/conf.h"

int main(void)
{
	conf_print_reference(stdout);
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
