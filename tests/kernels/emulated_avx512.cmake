# kernel_test: what the tests of kernels share, and every *_avx512*.c kernel compiled once more with emulated
# instructions (SIMDe), so that it is tested on machines without AVX-512 too.
file(GLOB emulated_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx512*.c)
list(FILTER emulated_sources EXCLUDE REGEX "_avx512bf16\\.c$") # SIMDe 0.7.4 has no vdpbf16ps
find_path(SIMDE_INCLUDE simde/x86/avx512.h)
if(NOT SIMDE_INCLUDE OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  message(STATUS "no SIMDe (libsimde-dev): AVX-512 kernels are tested only where the processor has AVX-512")
  set(emulated_sources "")
endif()
if(TB_SANITIZE) # emulation is a few functions an instruction: instrumented, it compiles for minutes and shows nothing new
  set(emulated_sources "")
endif()
set(emulated_list ${CMAKE_CURRENT_BINARY_DIR}/emulated_list.inc)
add_custom_command(OUTPUT ${emulated_list} COMMAND ${CMAKE_COMMAND} -DOUT=${emulated_list} -DMARKER=TB_KERNEL
  -DLINE=TB_KERNEL_ENTRY "-DSOURCES=${emulated_sources}" -P ${CMAKE_SOURCE_DIR}/engine/list_markers.cmake
  DEPENDS ${emulated_sources} ${CMAKE_SOURCE_DIR}/engine/list_markers.cmake VERBATIM)
set(emulated_objects "")
if(emulated_sources)
  add_library(kernel_emulated OBJECT ${emulated_sources})
  target_compile_options(kernel_emulated PRIVATE -mavx2 -mfma -mf16c -Wno-psabi -include
                         ${CMAKE_CURRENT_LIST_DIR}/emulated_avx512.h)
  target_link_libraries(kernel_emulated PRIVATE tb_kernels)
  target_include_directories(kernel_emulated PRIVATE ${CMAKE_SOURCE_DIR}/kernels/cpu)
  set(emulated_objects $<TARGET_OBJECTS:kernel_emulated>)
endif()
add_library(kernel_test STATIC ${CMAKE_CURRENT_LIST_DIR}/emulated_avx512.c ${CMAKE_CURRENT_LIST_DIR}/kernel_test.c
            ${emulated_list} ${emulated_objects})
target_include_directories(kernel_test PUBLIC ${CMAKE_CURRENT_LIST_DIR} PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
target_link_libraries(kernel_test PUBLIC tensorbrain_static PkgConfig::CMOCKA)
