# To be sourced: what fails ends with the command that repeats it from the folder of the project.

how_to_repeat() { # COMMAND...
  {
    echo "To repeat this failure:"
    printf '   '
    printf ' %q' "$@"
    echo
  } >&2
}
repeatable() { # MORE COMMAND...: runs the command; MORE, unless empty, makes it pick what failed
  local code=0
  "${@:2}" || code=$?
  [ $code -eq 0 ] || how_to_repeat "${@:2}" ${1:+"$1"}
  return $code
}
