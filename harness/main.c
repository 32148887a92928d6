/* The program `tb`. */
#include "tb_verb.h"

int main(int argc, char **argv) { return tb_main(argc, argv); }
