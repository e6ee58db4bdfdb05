# C++ unit tests, without Python: `make test-cpp` builds and runs them, plain and under the sanitizers.
enable_testing()

function(qkv_add_test name)
  add_executable(${name}_test csrc/tests/${name}_test.cc)
  target_link_libraries(${name}_test PRIVATE qkv_cpu qkv_flags)
  add_test(NAME ${name} COMMAND ${name}_test)
endfunction()

qkv_add_test(codec)
qkv_add_test(cpu)
qkv_add_test(pool)
qkv_add_test(probe)
qkv_add_test(targets)
if(CMAKE_CROSSCOMPILING_EMULATOR)
  target_compile_definitions(pool_test PRIVATE QKV_EMULATED)
endif()

# Fuzz targets. With clang and QKV_FUZZER=ON each is a libFuzzer program; else a driver feeds it a number of inputs.
option(QKV_FUZZER "Build the fuzz targets with libFuzzer (clang)" OFF)
function(qkv_add_fuzz name num_inputs)
  add_executable(${name}_fuzz csrc/tests/fuzz/${name}_fuzz.cc)
  target_link_libraries(${name}_fuzz PRIVATE qkv_cpu qkv_flags)
  if(QKV_FUZZER)
    target_compile_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
    target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
    add_test(NAME ${name}_fuzz COMMAND ${name}_fuzz -runs=${num_inputs} -seed=1)
  else()
    target_sources(${name}_fuzz PRIVATE csrc/tests/fuzz/driver.cc)
    add_test(NAME ${name}_fuzz COMMAND ${name}_fuzz ${num_inputs})
  endif()
endfunction()

qkv_add_fuzz(graph 300)
if(CMAKE_CROSSCOMPILING_EMULATOR)
  qkv_add_fuzz(attention 10)  # an emulator needs ten times as long
else()
  qkv_add_fuzz(attention 40)
endif()

# Processes that end while threads of the pool watch, sleep, or are in the middle of a task of an hour.
foreach(moment RANGE 2)
  add_test(NAME pool_at_exit_${moment} COMMAND pool_test ${moment})
  list(APPEND at_exit pool_at_exit_${moment})
endforeach()
set_tests_properties(pool ${at_exit} PROPERTIES TIMEOUT 60)

# Its threads are waited for by the tests themselves.
set_tests_properties(pool ${at_exit} PROPERTIES ENVIRONMENT "TSAN_OPTIONS=atexit_sleep_ms=20")

# What the sanitizers add to an object file is not what is linked into a wheel.
if(CMAKE_NM AND NOT QKV_SANITIZE)
  foreach(name IN LISTS QKV_TARGET_NAMES)
    add_test(NAME symbols_${name} COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DTARGET=${name}
      -DOBJECT=$<TARGET_OBJECTS:qkv_target_${name}> -DTERMS=$<TARGET_OBJECTS:qkv_target_${name}_terms>
      -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/symbols.cmake)
  endforeach()
endif()
qkv_add_test(terms)
