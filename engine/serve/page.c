/* The built-in page, as it stands in page.html. */
#include "server.h"

__asm__(".section .rodata\n"
        ".global tbi_page_html\n"
        "tbi_page_html:\n"
        ".incbin \"" TBI_PAGE_FILE "\"\n"
        "tbi_page_html_end:\n"
        ".byte 0\n"
        ".balign 8\n"
        ".global tbi_page_html_bytes\n"
        "tbi_page_html_bytes:\n"
        ".quad tbi_page_html_end - tbi_page_html\n"
        ".previous\n");
