"""Pictures a human judges by: camera strips with plans, codebook histograms, bird's-eye views. All
return PNG bytes.
"""
