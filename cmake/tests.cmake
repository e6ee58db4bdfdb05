# C++ unit tests, without Python: `make test-cpp` builds and runs them, plain and under the sanitizers.
enable_testing()

function(qkv_add_test name)
  add_executable(${name}_test csrc/tests/${name}_test.cc)
  target_link_libraries(${name}_test PRIVATE qkv_cpu qkv_flags)
  add_test(NAME ${name} COMMAND ${name}_test)
endfunction()

qkv_add_test(cpu)
qkv_add_test(probe)
qkv_add_test(targets)
